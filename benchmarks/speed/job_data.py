"""Data and weights of a job that is timed, and the sampler alone on the same; in own processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from engine.sampling.config import SamplingConfig
from engine.sampling.sampler import Sampler, SampleRequest
from engine.volumes.prepare_config import PRESETS as GRIDS
from engine.volumes.prepared.manifest import PreparedEntry, PreparedManifest, write_manifest
from engine.volumes.prepared.store import read_prepared, write_prepared
from machine import about_device, synchronize
from models.presets import PRESETS
from speed.material import GRID_OF_SIZE, random_weights, shortened, stretched_phantom

_SHORT = 40  # slices of the volumes that warm up


def prepare(place: Path, preset: str, num_slices: int) -> None:
    """Random weights and a prepared data set of one stretched phantom."""
    size = PRESETS[preset].size_px
    random_weights(place / "weights", PRESETS[preset])
    case = stretched_phantom(size, num_slices)
    write_prepared(place / "data" / f"{case.case_id}.zarr", case)
    entry = PreparedEntry(
        dataset="phantoms", split="train", sha256="0" * 64, size_zyx=case.size_zyx, has_image=True,
        sources={},
    )  # fmt: skip
    manifest = PreparedManifest(
        config=GRIDS[GRID_OF_SIZE[size]],
        class_names=case.class_names,
        cases={case.case_id: entry},
    )
    write_manifest(place / "data", manifest)


def alone(data: Path, weights: Path, sampling: SamplingConfig, volumes: int) -> dict[str, Any]:
    """Seconds a volume of the sampler without a job, in steady state as the job's are counted."""
    device = own_device()
    sampler = Sampler.load(weights, sampling, device)
    (path,) = data.glob("*.zarr")
    case = read_prepared(path)
    windows = sampler.model.max_windows
    some = [SampleRequest.own(shortened(case, _SHORT), seed) for seed in range(windows)]
    _sample(sampler, some)
    synchronize(device)
    started = time.perf_counter()
    _sample(sampler, [SampleRequest.own(case, seed) for seed in range(volumes)])
    synchronize(device)
    seconds = (time.perf_counter() - started) / volumes
    return {"s_per_volume": round(seconds, 4), "windows": windows}


def own_device() -> str:
    """Where a worker of a job would compute."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_facts() -> dict[str, Any]:
    """Of the record."""
    return about_device(own_device())


def _sample(sampler: Sampler, requests: list[SampleRequest]) -> None:
    for outcome in sampler.sample_many(requests):
        outcome.result()
