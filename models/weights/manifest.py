"""What a weights folder is for, without its networks: config.json, file names and their digest.

Imports no torch, so that who only asks what a model can do stays small.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from models.errors import WeightsFileError as WeightsFileError
from models.presets import Preset, TowerSpec

CONFIG, AUTOENCODER, DENOISER = "config.json", "autoencoder.safetensors", "denoiser.safetensors"
POSITION, IMAGE_ENCODER = "position.safetensors", "image_encoder.safetensors"
_MAX_CONFIG_BYTES = 16 << 20
OPTIONAL = (POSITION, IMAGE_ENCODER)
_SEAL = re.compile(
    rb',\s*"sha256":\s*\{[^{}]*\}(\s*\}\s*)$'
)  # last in the file; holds digests only


class Manifest(BaseModel):
    """What a weights folder is for; `config.json`.

    Attributes:
        preset: the whole architecture.
        num_classes: mask classes, background not counted.
        class_names: names of classes 1..num_classes.
        schedule: settings of the diffusion (the engine's ScheduleConfig as a mapping).
        spacing_mm_yx: in-plane spacing of the training grid.
        modality: "ct" or "mr".
        num_inference_steps: denoising steps a window at which these weights were found best; 5
            until somebody has looked (benchmarks/results: more were never better).
        solver: with which they were found best, or which they were distilled for
            (a name in engine.sampling.solvers.methods); None leaves it to the sampler.
        image_encoder: architecture of the vision tower that the denoiser was trained with, where it
            attends to image tokens (`DenoiserSpec.image_token_width`).
        stages: how each stage was trained (iterations, cases, condition_dropout ...), by name.
        sha256: of each tensor file, and of `config.json` without this entry, as they were written;
            empty in folders of version 0.1.0, which are not checked (`refuse_damage`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    preset: Preset
    num_classes: int
    class_names: tuple[str, ...]
    schedule: dict[str, Any]
    spacing_mm_yx: float
    modality: str
    num_inference_steps: int = 5
    solver: str | None = None
    image_encoder: TowerSpec | None = None
    stages: dict[str, dict[str, Any]] = {}
    sha256: dict[str, str] = {}

    @property
    def condition_dropout(self) -> float:
        """Share of the denoiser's last training examples that had no conditions; 0 if unknown."""
        share = self._last_denoiser_stage.get("condition_dropout")
        return float(share) if isinstance(share, int | float) else 0.0

    @property
    def pins_informed(self) -> bool:
        """Whether windows that hold the informed slice as a known one were trained on."""
        share = self._last_denoiser_stage.get("pinned_share")
        return isinstance(share, int | float) and share > 0.0

    @property
    def _last_denoiser_stage(self) -> dict[str, Any]:
        last = next((s for s in ("distill", "volume", "slice") if s in self.stages), None)
        return self.stages[last] if last else {}


def read_manifest(folder: Path) -> Manifest:
    """Read `config.json`.

    Raises:
        WeightsFileError: missing, not JSON, or of another format.
    """
    path = folder / CONFIG
    try:
        text = path.read_text(encoding="utf-8") if _is_small(path) else ""
        return Manifest.model_validate(json.loads(text))
    except OSError:
        raise WeightsFileError(f"{path}: not found; give a folder made by train_model") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, not a manifest
        raise WeightsFileError(
            f"{path}: not a model configuration ({error}); restore it from where it was trained"
        ) from None


def _is_small(path: Path) -> bool:
    """Whether a file is a regular one (a pipe would be waited for) of a configuration's size."""
    status = path.stat()
    return stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_CONFIG_BYTES


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `config.json` whole or not at all, with the digests of the tensor files beside it.

    Also after a power cut.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f".{CONFIG}.new"
    text = manifest.model_dump_json(indent=2, exclude={"sha256"})
    names = (AUTOENCODER, DENOISER, *OPTIONAL)
    digests = {
        CONFIG: hashlib.sha256(f"{text}\n".encode()).hexdigest(),
        **{name: _hash_file(folder / name) for name in names if (folder / name).is_file()},
    }
    seal = json.dumps(digests, indent=2).replace("\n", "\n  ")
    staged.write_text(f'{text[:-2]},\n  "sha256": {seal}\n}}\n', encoding="utf-8")
    sync(staged)
    staged.replace(folder / CONFIG)
    sync(folder)


def sync(path: Path) -> None:
    """A file's bytes, or the names in a folder, down to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of each file of a weights folder by name, in a fixed order, read in blocks.

    A position model and a vision tower count where there are any. `config.json` is hashed without
    the digests that it holds, so that writing them down changes no folder's identity.

    Raises:
        WeightsFileError: the folder holds no complete model.
    """
    optional = [name for name in OPTIONAL if (folder / name).is_file()]
    hashes = {}
    for name in (CONFIG, AUTOENCODER, DENOISER, *optional):
        path = folder / name
        if not path.is_file():
            raise WeightsFileError(f"{path}: not found; give a folder made by train_model")
        hashes[name] = _hash_file(path)
    return hashes


def refuse_damage(folder: Path, files: Mapping[str, str]) -> None:
    """Compare the files of a weights folder with the digests that its `config.json` holds.

    Args:
        folder: the weights folder.
        files: what `hash_files` found there.

    Raises:
        WeightsFileError: a file is not the one that was written; names it.
    """
    for name, written in read_manifest(folder).sha256.items():
        found = files.get(name, "")
        if found != written:
            state = f"sha256 {found[:12]}..., written as {written[:12]}..." if found else "missing"
            raise WeightsFileError(
                f"{folder / name}: damaged or exchanged ({state}); restore the folder from where "
                f'it was trained, or, if the change is meant, take "sha256" out of {CONFIG}'
            )


def _hash_file(path: Path) -> str:
    if path.name == CONFIG:
        return hashlib.sha256(_SEAL.sub(rb"\1", path.read_bytes())).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(hashes: Mapping[str, str]) -> str:
    """One digest of what `hash_files` returns; names the weights in provenance."""
    digest = hashlib.sha256()
    for name, value in hashes.items():
        digest.update(name.encode() + bytes.fromhex(value))
    return digest.hexdigest()


def weights_sha256(folder: Path) -> str:
    """One digest over config and tensors; see `hash_files`."""
    return digest_of(hash_files(folder))
