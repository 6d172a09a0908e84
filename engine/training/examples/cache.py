"""The caches: what the stages train on, computed once and reused by all of them.

A folder in a cache is named by the architecture and autoencoder it was made with, and belongs to
the bytes of one prepared case; it is whole or not there. Missing ones are made in this process, or
beforehand by a Ray Data job (loop/ray_cache.py), with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from engine.errors import TrainingError
from engine.log import get_logger
from engine.storage.digests import hash_file
from engine.storage.zarr_groups.array_store import open_arrays, read_key
from engine.training.config import TrainSettings
from engine.training.examples.augment import copy_name, plan_move
from engine.training.examples.encoding import EncodeTask, LatentCase, encode_latents, write_pixels
from engine.training.settings.parts import DataSettings
from engine.volumes.prepared.store import PreparedHeader
from models.autoencoder import Autoencoder
from models.image_encoder import ImageTower, load_image_tower
from models.weights.folder import AUTOENCODER, Manifest, load_autoencoder

log = get_logger(__name__)
_FORMAT = "latents/3"


@dataclass(frozen=True)
class CachePlan:
    """What a stage needs in its cache.

    Attributes:
        kind: `latents`, or `pixels` for the autoencoder.
        tasks: a folder each, sorted by name.
        weights: folder of the autoencoder; `latents` only.
        manifest: of those weights; `latents` only.
        device: where to encode.
        image_encoder: folder of the vision tower; only for presets that take its tokens.
    """

    kind: Literal["latents", "pixels"]
    tasks: tuple[EncodeTask, ...]
    weights: Path | None = None
    manifest: Manifest | None = None
    device: str = "cpu"
    image_encoder: Path | None = None

    def missing(self) -> list[EncodeTask]:
        """Tasks whose folder is not there, torn, or made from something else."""
        return [task for task in self.tasks if read_key(task.target) != task.key]


def plan_latents(
    cases: Sequence[PreparedHeader], manifest: Manifest, weights: Path, settings: TrainSettings
) -> CachePlan:
    """The latent cache of these cases and their planned copies.

    Args:
        cases: to encode.
        manifest: of `weights`.
        weights: folder of the autoencoder.
        settings: of the training.
    """
    spec = manifest.preset.denoiser
    encoding = {
        "format": _FORMAT,
        "mask": [spec.mask_encoding, spec.mask_subpixels, manifest.num_classes],
        "size_px": manifest.preset.size_px,
        "autoencoder": hash_file(weights / AUTOENCODER),
    }
    tower = settings.model.image_encoder if spec.image_token_width is not None else None
    if tower is not None:
        encoding["image_encoder"] = _folder_sha256(tower)
    model = hashlib.sha256(json.dumps(encoding, sort_keys=True).encode()).hexdigest()[:16]
    tasks = _tasks(
        cases, settings.data, settings.folders.work / "latents" / model, model, ("image", "mask")
    )
    device = "cuda" if settings.machine.use_gpu else "cpu"
    return CachePlan("latents", tasks, weights, manifest, device, tower)


def plan_pixels(cases: Sequence[PreparedHeader], settings: TrainSettings) -> CachePlan:
    """The pixel cache of these cases and their planned copies."""
    tasks = _tasks(cases, settings.data, settings.folders.work / "pixels", "pixels/1", ("image",))
    return CachePlan("pixels", tasks)


def open_latents(plan: CachePlan) -> list[LatentCase]:
    """All cases of a latent cache; what is missing is encoded in this process first."""
    fill_here(plan)
    return [LatentCase.of(open_arrays(task.target)) for task in plan.tasks]


def open_pixels(plan: CachePlan) -> dict[str, torch.Tensor]:
    """`z y x` float16 images by name; what is missing is written first."""
    fill_here(plan)
    stored = {task.name: open_arrays(task.target) for task in plan.tasks}
    return {name: torch.from_numpy(found.arrays["image"]) for name, found in stored.items()}


def fill_here(plan: CachePlan) -> int:
    """Make what is missing in this process; the number of folders made."""
    missing = plan.missing()
    encoder = Encoder(plan)
    for task in missing:
        encoder.make(task)
    if missing:
        log.info("%s of %d cases and copies made", plan.kind, len(missing))
    return len(missing)


@dataclass
class Encoder:
    """Makes folders of one plan; loads the autoencoder when the first is due.

    Args:
        plan: what is needed.
        autoencoder: of the plan's weights, once loaded.
        tower: vision tower, likewise.
    """

    plan: CachePlan
    autoencoder: Autoencoder | None = None
    tower: ImageTower | None = None

    def make(self, task: EncodeTask) -> None:
        """Make the folder of a task."""
        if self.plan.kind == "pixels":
            write_pixels(task)
            return
        manifest = self.plan.manifest
        assert self.plan.weights is not None
        assert manifest is not None
        if self.autoencoder is None:
            self.autoencoder = load_autoencoder(self.plan.weights, manifest).to(self.plan.device)
            if self.plan.image_encoder is not None:
                self.tower = load_image_tower(self.plan.image_encoder).to(self.plan.device)
        preset, num_classes = manifest.preset, manifest.num_classes
        encode_latents(task, self.autoencoder, preset, num_classes, self.tower)


def _tasks(
    cases: Sequence[PreparedHeader],
    data: DataSettings,
    folder: Path,
    model: str,
    parts: tuple[str, ...],
) -> tuple[EncodeTask, ...]:
    tasks = []
    for case in cases:
        for copy in range(data.num_augmented + 1):
            move = plan_move(data.seed, case.case_id, copy, flips=data.augment_flip)
            depends = [model, *(case.sha256[part] for part in parts), move.as_record()]
            key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
            name = copy_name(case.case_id, copy)
            source, target = data.data / f"{case.case_id}.zarr", folder / f"{name}.zarr"
            tasks.append(EncodeTask(name, source, target, key, move))
    return tuple(tasks)


def _folder_sha256(folder: Path) -> str:
    """Digest of the files of a vision tower."""
    files = sorted(p for p in folder.glob("*") if p.suffix in (".json", ".safetensors"))
    if not files:
        raise TrainingError(f"{folder}: no vision tower there; give its folder as image_encoder")
    return hashlib.sha256("".join(map(hash_file, files)).encode()).hexdigest()
