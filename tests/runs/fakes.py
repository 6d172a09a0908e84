"""A sampler without a model, and a small prepared data set: for tests of everything around them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.parallel.rows.pipeline import Pool, Row
from engine.parallel.start.session import RaySession
from engine.runs.jobs import harmonize, working
from engine.runs.jobs import resample as resample_job
from engine.runs.making.worker import ResampleWorker, WorkerTask
from engine.runs.planning import precision as run_precision
from engine.runs.planning.rows import CaseFacts, build_plan
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import RunIdentity
from engine.runs.record.own_files import settle_identity, settle_plan
from engine.runs.report import page as report
from engine.sampling.config import SamplingConfig
from engine.sampling.sampler import SampledVolume, SampleRequest
from engine.storage.places import Place
from engine.volumes.prepared.manifest import PreparedEntry, PreparedManifest, write_manifest
from engine.volumes.prepared.prepare import PrepareConfig, prepare_case
from engine.volumes.prepared.store import write_prepared
from engine.volumes.store import hash_tree
from engine.volumes.volume import Volume
from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser
from models.presets import PRESETS
from models.weights.folder import AUTOENCODER, DENOISER, Manifest, save_weights
from models.weights.folder import write_manifest as write_weights_manifest

SIZE_PX = 32
WINDOW = 5
PREPARE = PrepareConfig(
    size_yx=(SIZE_PX, SIZE_PX),
    label_map={1: 1, 2: 2},
    class_names=("liver", "spleen"),
    contour="body",
)

IDENTITY = RunIdentity(
    job="resample", settings={}, weights_sha256="w", weights={}, data={}, machine={},
    versions={"gem3d-engine": "1"}, code="c",
)  # fmt: skip
"""Of runs that tests make without a job."""


def on_disk(place: Place | None) -> Path:
    """A place of a run that a test made on this computer."""
    assert isinstance(place, Path)
    return place


@dataclass(frozen=True)
class FakeSampler:
    """Mask, informed slice and seeded noise; can be slow, fail, or kill its process.

    `outlined`: outside the mask is dark, as the quality gate wants it.
    """

    outlined: bool = True
    seconds_a_window: float = 0.0
    fail: frozenset[str] = frozenset()
    kill: frozenset[str] = frozenset()
    nan: frozenset[str] = frozenset()
    seen: list[str] = field(default_factory=list)

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        self.seen.append(request.sample_id)
        if request.sample_id in self.fail:
            raise RuntimeError("the fake sampler was told to fail")
        if request.sample_id in self.kill:
            os._exit(1)
        depth = request.mask.shape[0]
        starts = range(0, depth, WINDOW)
        for done, _ in enumerate(starts, start=1):
            time.sleep(self.seconds_a_window)
            if on_window is not None:
                on_window(done, len(starts))
        key = hashlib.sha256(f"{request.seed}/{request.sample_id}".encode()).digest()
        noise = np.random.default_rng(list(key)).normal(size=request.mask.shape)
        assert request.informed is not None
        image = 0.6 * request.informed + 0.1 * request.mask + 0.05 * noise
        if self.outlined:
            image[request.mask == 0] = -1.0
        if request.sample_id in self.nan:
            image[0, 0, 0] = np.nan
        return SampledVolume(
            image=np.clip(image, -1, 1).astype(np.float32),
            joins=tuple(starts)[1:],
            num_windows=len(starts),
            timings_s={"denoise": 0.5},
        )


@dataclass(frozen=True)
class LoadFake:
    """A `LoadSampler` that survives pickling."""

    sampler: FakeSampler = FakeSampler()

    def __call__(self, weights: Path, config: SamplingConfig, device: str) -> FakeSampler:
        return self.sampler


def work_here(patch: pytest.MonkeyPatch) -> None:
    """Let jobs work in this process, one row after the other, without Ray or other processes."""

    def in_turn(
        rows: Sequence[Row], worker: type[Callable[[Row], Any]], settings: Row, pool: Pool
    ) -> Iterator[Row]:
        made = ResampleWorker(**settings)
        for row in rows:
            yield made(row)

    def here(do: Callable[..., Any], *args: Any) -> Any:
        return do(*args)

    for module in (harmonize, report, resample_job, run_precision):
        patch.setattr(module, "in_own_process", here)
    patch.setattr(working, "run_rows", in_turn)
    patch.setattr(working, "node_resources", lambda: [{"CPU": 2.0}])
    patch.setattr(RaySession, "start", lambda *_: None)


def make_weights(folder: Path, prepare: PrepareConfig = PREPARE) -> Path:
    """A weights folder as far as a run looks into it: names and shapes, all zeros."""
    demo = PRESETS["demo"]
    denoiser = demo.denoiser.model_copy(
        update={"base_channels": 32, "multipliers": (1,), "attention_px": ()}
    )
    manifest = Manifest(
        preset=demo.model_copy(update={"size_px": prepare.size_yx[0], "denoiser": denoiser}),
        num_classes=len(prepare.all_class_names),
        class_names=prepare.all_class_names,
        schedule={},
        spacing_mm_yx=prepare.spacing_mm_yx,
        modality=prepare.modality,
    )
    with torch.device("meta"):
        models = {
            AUTOENCODER: Autoencoder(manifest.preset.autoencoder),
            DENOISER: Denoiser(manifest.preset, manifest.num_classes),
        }
    for name, model in models.items():
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        save_weights(folder / name, {key: torch.zeros(shape) for key, shape in shapes.items()})
    write_weights_manifest(folder, manifest)
    return folder


def make_data(
    folder: Path,
    num_cases: int = 3,
    without_image: tuple[str, ...] = (),
    prepare: PrepareConfig = PREPARE,
    test_cases: tuple[str, ...] = (),
) -> Path:
    """Prepared cases `case0`, `case1`, ...: an ellipse with two organs, LPS and 3 x 3 x 5 mm."""
    entries = {}
    for number in range(num_cases):
        name = f"case{number}"
        image, labels = make_case(number)
        if prepare.contour == "brain":
            image = _stripped(image)
        case = prepare_case(image, labels, prepare, name)
        if name in without_image:
            case = type(case)(**{**vars(case), "image": None})
        write_prepared(folder / f"{name}.zarr", case)
        files = hash_tree(folder / f"{name}.zarr")
        entries[name] = PreparedEntry(
            dataset="fake",
            split="test" if name in test_cases else "train",
            sha256=hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest(),
            size_zyx=case.size_zyx,
            has_image=case.image is not None,
            sources={},
        )
    write_manifest(
        folder,
        PreparedManifest(config=prepare, class_names=prepare.all_class_names, cases=entries),
    )
    return folder


def make_case(seed: int) -> tuple[Volume, Volume]:
    """Image in HU and raw labels of a small abdomen, LPS."""
    rng = np.random.default_rng(seed)
    depth, height, width = 12 + 2 * seed, 26, 28
    z, y, x = np.mgrid[:depth, :height, :width]
    body = ((y - 12.5) / 10) ** 2 + ((x - 13.5) / 12) ** 2 < 1
    liver = body & ((y - 11) ** 2 + (x - 8) ** 2 < 16) & (z > 1)
    spleen = body & ((y - 14) ** 2 + (x - 20) ** 2 < 9) & (z < depth - 2)
    image = np.where(body, 0.0, -1000.0) + 110.0 * liver + 80.0 * spleen
    image = image + rng.normal(scale=8.0, size=image.shape)
    affine = np.diag([-3.0, -3.0, 5.0, 1.0])
    affine[:3, 3] = (40.0, 38.0, -100.0)
    labels = liver.astype(np.int32) + 2 * (spleen & ~liver)
    return (
        Volume(image.astype(np.float32), affine, f"fake{seed}"),
        Volume(labels.astype(np.int32), affine, f"fake{seed}"),
    )


def _stripped(image: Volume) -> Volume:
    """The same intensities as of a skull-stripped MR: positive, zero outside."""
    array = np.where(image.array > -500.0, image.array + 1100.0, 0.0)
    return Volume(array.astype(np.float32), image.affine, image.source)


def make_run(place: Path, data: Path, num_slices: Mapping[str, int]) -> Path:
    """A finished run of prepared cases with their own slices, made without Ray.

    Args:
        place: gets the folder `run`.
        data: folder of prepared cases.
        num_slices: of each case, by name.
    """
    folder = RunFolder(place / "run")
    folder.create()
    task = WorkerTask(
        root=folder.root,
        data=data,
        weights=place,
        sampling=SamplingConfig(),
        settings_sha256=IDENTITY.settings_sha256,
        weights_sha256=IDENTITY.weights_sha256,
        code="c",
        num_threads=1,
    )
    rows = build_plan(
        {name: CaseFacts(count, True) for name, count in num_slices.items()},
        list(num_slices),
        "own",
        1,
        5,
    )
    settle_identity(folder, IDENTITY)
    settle_plan(folder, lambda: rows)
    worker = ResampleWorker(task, LoadFake())
    for row in rows:
        status = worker({"plan": row.model_dump_json()})
        assert status["status"] == "committed", status
    return place / "run"
