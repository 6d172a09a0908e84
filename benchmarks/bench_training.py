#!/usr/bin/env python
"""How fast training steps are: cached latents against encoding, bfloat16, two workers.

    python benchmarks/bench_training.py [--preset gem3d_256] [--steps 4] [--quick]

Trains random weights on one phantom, windows of the slice stage's kind (one 2D slice an example),
in processes of their own. The peak of the machine is that of a matrix product in the same
precision. `--quick` is a smoke run with the demo's preset. JSON at the end.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from engine.training.config import TrainConfig
from engine.training.denoiser_stage import DenoiserStage
from engine.training.encoding import LatentCase, latent_arrays
from engine.training.steps import Training
from engine.volumes.phantom import PhantomConfig, make_phantom
from engine.volumes.prepare import ABDOMEN_CT, prepare_case
from engine.volumes.store import read_prepared, write_prepared
from machine import about, matrix_peak_gflops
from models.autoencoder import Autoencoder
from models.presets import PRESETS
from models.weights import (
    AUTOENCODER,
    Manifest,
    load_autoencoder,
    read_manifest,
    save_weights,
    write_manifest,
)

WARM_UP = 2


@dataclass(frozen=True)
class Trial:
    """One measured training.

    Attributes:
        folder: of data, weights and work.
        preset: name.
        steps: measured.
        batch: examples a worker and step.
        precision: of the forward pass.
        workers: processes.
        encode: take images through the autoencoder in each step instead of the cache.
        threads: of each worker.
    """

    folder: Path
    preset: str
    steps: int
    batch: int
    precision: str = "float32"
    workers: int = 1
    encode: bool = False
    threads: int = 1


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="gem3d_256", choices=sorted(PRESETS))
    parser.add_argument("--steps", type=int, default=4, help="measured steps a trial")
    parser.add_argument("--batch", type=int, default=4, help="slices a worker and step")
    parser.add_argument("--quick", action="store_true", help="the demo's preset, two steps")
    options = parser.parse_args(args)
    if options.quick:
        options.preset, options.steps, options.batch = "demo", 2, 2
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_data(folder, options.preset)
        base = Trial(folder, options.preset, options.steps, options.batch, threads=cores)
        halves = replace(base, threads=max(1, cores // 2))
        found = {
            "cached": measure(base),
            "encoded": measure(replace(base, encode=True)),
            "bfloat16": measure(replace(base, precision="bfloat16")),
            "one_worker": measure(halves),
            "two_workers": measure(replace(halves, workers=2)),
        }
    for name, values in found.items():
        print(f"{name:12s} {values['examples_per_s']:8.3f} slices/s")
    print(
        json.dumps(
            {
                "bench": "training",
                **summary(found, options.preset),
                **about(),
                "torch": torch.__version__,
            }
        )
    )
    return 0


def summary(found: dict[str, dict[str, float]], preset: str) -> dict[str, Any]:
    """The numbers that the issue asks for."""
    rate = {name: values["examples_per_s"] for name, values in found.items()}
    torch.set_num_threads(os.cpu_count() or 1)
    peak = 1e9 * matrix_peak_gflops(torch.float32)
    return {
        "preset": preset,
        "examples_per_s": {name: round(value, 4) for name, value in rate.items()},
        "cached_speedup": round(rate["cached"] / rate["encoded"], 3),
        "bf16_speedup": round(rate["bfloat16"] / rate["cached"], 3),
        "two_workers_speedup": round(rate["two_workers"] / rate["one_worker"], 3),
        "mfu": round(found["cached"]["flops_per_s"] / peak, 4),
        "share_other": round(found["cached"]["share_other"], 4),
        "peak_tflops": round(peak / 1e12, 4),
    }


def make_data(folder: Path, preset: str) -> None:
    """One prepared phantom at the preset's size, and random autoencoder weights."""
    edge = PRESETS[preset].size_px
    phantom = make_phantom(0, 0, PhantomConfig(num_slices=24))
    settings = ABDOMEN_CT.model_copy(
        update={"size_yx": (edge, edge), "spacing_mm_yx": 3.0 * 128 / edge}
    )
    case = prepare_case(phantom.image, phantom.labels, settings, "bench")
    write_prepared(folder / "prepared" / "bench.zarr", case)
    torch.manual_seed(0)
    net = Autoencoder(PRESETS[preset].autoencoder)
    save_weights(folder / "weights" / AUTOENCODER, net.state_dict())
    manifest = Manifest(
        preset=PRESETS[preset],
        num_classes=case.num_classes,
        class_names=case.class_names,
        schedule=TrainConfig().schedule.model_dump(),
        spacing_mm_yx=settings.spacing_mm_yx,
        modality="ct",
    )
    write_manifest(folder / "weights", manifest)


def measure(trial: Trial) -> dict[str, float]:
    """Run a trial in processes of its own; rates of the first worker."""
    out, store = trial.folder / "measured.json", trial.folder / "store"
    store.unlink(missing_ok=True)
    spawn(_worker, (trial, out, store), nprocs=trial.workers)  # type: ignore[no-untyped-call]
    measured: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    return measured


def _worker(rank: int, trial: Trial, out: Path, store: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"}
    os.environ["WORLD_SIZE"] = str(trial.workers)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=trial.workers
    )
    config = TrainConfig(
        stage="slice",
        preset=trial.preset,
        data=trial.folder / "prepared",
        weights=trial.folder / "weights",
        work=trial.folder / "work",
        num_iterations=WARM_UP + trial.steps,
        batch_size=trial.batch,
        num_workers=trial.workers,
        precision="bfloat16" if trial.precision == "bfloat16" else "float32",
        threads=trial.threads,
        checkpoint_minutes=1e6,
        trackers=(),
    )
    torch.set_num_threads(trial.threads)
    training = Training(config, rank)
    if trial.encode:
        encode_on_the_fly(training, config)
    values = _timed(training, trial)
    if rank == 0:
        out.write_text(json.dumps(values), encoding="utf-8")
    torch.distributed.destroy_process_group()


def _timed(training: Training, trial: Trial) -> dict[str, float]:
    """Take the steps; the first ones, which allocate and count arithmetic, are left out."""
    training.pace.num_iterations = WARM_UP
    training.run()
    training.pace.num_iterations = WARM_UP + trial.steps
    working, started = training.monitor.working_s, time.perf_counter()
    training.run()
    seconds = time.perf_counter() - started
    working = training.monitor.working_s - working
    training.close()
    steps_per_s = trial.steps / seconds
    return {
        "examples_per_s": steps_per_s * training.batching.examples,
        "flops_per_s": steps_per_s * training.monitor.flops,
        "share_other": 1.0 - working / seconds,
    }


class _Encoded:
    """Stands for a cached array; computes the slices that are asked for."""

    def __init__(self, case: _EncodedCase, name: str) -> None:
        self.case, self.name = case, name

    def __len__(self) -> int:
        return len(self.case.images)

    def __getitem__(self, z: slice) -> Tensor:
        return self.case.arrays(z)[self.name]


class _EncodedCase:
    """A case whose latents are computed each time they are drawn."""

    def __init__(self, config: TrainConfig, cached: LatentCase) -> None:
        case = read_prepared(config.data / f"{cached.case_id}.zarr")
        assert case.image is not None
        self.images, self.masks = torch.from_numpy(case.image), torch.from_numpy(case.mask)
        self.manifest = read_manifest(config.weights)
        self.autoencoder = load_autoencoder(config.weights, self.manifest)
        self.threads = config.threads or 1
        self._last: tuple[slice, dict[str, Tensor]] | None = None

    def arrays(self, z: slice) -> dict[str, Tensor]:
        """Mean, log-variance and mask channels; computed once for one slice in a row."""
        if self._last is None or self._last[0] != z:
            found = latent_arrays(
                self.images[z],
                self.masks[z],
                self.autoencoder,
                self.manifest.preset,
                self.manifest.num_classes,
                threads=self.threads,
            )
            self._last = (z, {name: torch.from_numpy(array) for name, array in found.items()})
        return self._last[1]


def encode_on_the_fly(training: Training, config: TrainConfig) -> None:
    """Put computed cases in the cached ones' place."""
    stage = training.stage
    assert isinstance(stage, DenoiserStage)
    for index, cached in enumerate(stage.data.cases):
        case = _EncodedCase(config, cached)
        parts: dict[str, Any] = {
            name: _Encoded(case, name) for name in ("mean", "log_variance", "mask")
        }
        stage.data.cases[index] = replace(cached, **parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
