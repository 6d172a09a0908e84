#!/usr/bin/env python
"""How fast training steps are: cached latents against encoding, bfloat16, two workers.

    python benchmarks/bench_training.py [--preset gem3d_256] [--steps 4] [--quick]
    python benchmarks/bench_training.py --device cuda --preset gem3d_512 [--stages slice:8:float16]

Trains random weights on one phantom, windows of the slice stage's kind (one 2D slice an example),
in processes of their own. `cached_speedup` is that of the latent cache with the preset's own
autoencoder, `cached_speedup_kl_f8` that with the paper's (LDM KL-f8). The peak of the machine is
that of a matrix product in float32. `--quick` is a smoke run with the demo's preset. JSON at the
end.

With --device nothing is compared: steps a second, share of the device's peak and memory of the
stages given as STAGE:BATCH:PRECISION[:ZERO_STAGE], in this process, by a phantom's cached latents.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from engine.training.config import TrainConfig
from engine.training.examples.encoding import LatentCase, latent_arrays
from engine.training.loop.training import Training
from engine.training.stages.denoiser import DenoiserStage
from engine.training.stages.survey import survey
from engine.volumes.phantoms.phantom import PhantomConfig, make_phantom
from engine.volumes.prepared.prepare import ABDOMEN_CT, prepare_case
from engine.volumes.prepared.store import read_prepared, write_prepared
from machine import about, about_device, matrix_peak_gflops
from models.autoencoder import Autoencoder
from models.presets import PRESETS, Preset
from models.weights.folder import (
    AUTOENCODER,
    Manifest,
    load_autoencoder,
    read_manifest,
    save_weights,
    write_manifest,
)
from speed.training import TrainingSetting, training_rows

WARM_UP = 2
_STAGES = [
    TrainingSetting("slice", 8, "bfloat16"),
    TrainingSetting("volume", 1, "bfloat16"),
    TrainingSetting("volume", 1, "float16", 1),
]
_SHOWN = ("stage", "batch", "precision", "zero_stage", "steps_per_s", "share_of_peak", "memory_mb")
NUM_SLICES = 24


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
        kl_f8: with the paper's autoencoder in the place of the preset's.
        threads: of each worker.
    """

    folder: Path
    preset: str
    steps: int
    batch: int
    precision: str = "float32"
    workers: int = 1
    encode: bool = False
    kl_f8: bool = False
    threads: int = 1

    @property
    def architecture(self) -> Preset:
        """The preset with this trial's autoencoder."""
        preset = PRESETS[self.preset]
        if not self.kl_f8:
            return preset
        return preset.model_copy(update={"autoencoder": PRESETS["gem3d_512"].autoencoder})

    @property
    def weights(self) -> Path:
        """Folder of the random autoencoder."""
        return self.folder / ("weights_kl_f8" if self.kl_f8 else "weights")


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="gem3d_256", choices=sorted(PRESETS))
    parser.add_argument("--steps", type=int, default=4, help="measured steps a trial")
    parser.add_argument("--batch", type=int, default=4, help="slices a worker and step")
    parser.add_argument("--kl-f8-steps", type=int, default=1, help="of KL-f8; 0 leaves it out")
    parser.add_argument("--quick", action="store_true", help="the demo's preset, two steps")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="measure --stages on it")
    parser.add_argument("--stages", nargs="+", type=TrainingSetting.parse, default=_STAGES)
    parser.add_argument("--out", type=Path, help="also write the JSON object there")
    options = parser.parse_args(args)
    if options.device is not None:
        return on_device(options)
    if options.quick:
        options.preset, options.steps, options.batch, options.kl_f8_steps = "demo", 2, 2, 0
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base = Trial(folder, options.preset, options.steps, options.batch, threads=cores)
        make_data(base)
        halves = replace(base, threads=max(1, cores // 2))
        found = {
            "cached": measure(base),
            "encoded": measure(replace(base, encode=True)),
            **paper_autoencoder(base, options.kl_f8_steps),
            "bfloat16": measure(replace(base, precision="bfloat16")),
            "one_worker": measure(halves),
            "two_workers": measure(replace(halves, workers=2)),
        }
    for name, values in found.items():
        print(f"{name:12s} {values['examples_per_s']:8.3f} slices/s")
    facts = {**about(), "torch": torch.__version__}
    tell({"bench": "training", **summary(found, options.preset), **facts}, options.out)
    return 0


def on_device(options: Namespace) -> int:
    """Measure the stages on one device."""
    with tempfile.TemporaryDirectory() as place:
        rows = training_rows(
            Path(place), options.preset, options.stages, options.device, options.steps
        )
    for row in rows:
        print(row.get("error") or {k: row[k] for k in _SHOWN})
    tell(
        {"bench": "training", **about_device(options.device), "preset": options.preset,
         "steps": options.steps, "rows": rows}, options.out,
    )  # fmt: skip
    return int(any("error" in row for row in rows))


def tell(found: dict[str, Any], out: Path | None) -> None:
    """The last line, and the same in a file."""
    text = json.dumps(found)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    print(text)


def paper_autoencoder(base: Trial, steps: int) -> dict[str, dict[str, float]]:
    """Encoding on the fly with KL-f8; its latents, and so cached steps, are like the preset's."""
    if steps == 0:
        return {}
    trial = replace(base, encode=True, kl_f8=True, steps=steps)
    make_data(trial)
    return {"encoded_kl_f8": measure(trial)}


def summary(found: dict[str, dict[str, float]], preset: str) -> dict[str, Any]:
    """The numbers that the issue asks for."""
    rate = {name: values["examples_per_s"] for name, values in found.items()}
    torch.set_num_threads(os.cpu_count() or 1)
    peak = 1e9 * matrix_peak_gflops(torch.float32)
    return {
        "preset": preset,
        "examples_per_s": {name: round(value, 4) for name, value in rate.items()},
        "cached_speedup": round(rate["cached"] / rate["encoded"], 3),
        "cached_speedup_kl_f8": (
            round(rate["cached"] / rate["encoded_kl_f8"], 3) if "encoded_kl_f8" in rate else None
        ),
        "bf16_speedup": round(rate["bfloat16"] / rate["cached"], 3),
        "two_workers_speedup": round(rate["two_workers"] / rate["one_worker"], 3),
        "mfu": round(found["cached"]["flops_per_s"] / peak, 4),
        "share_other": round(found["cached"]["share_other"], 4),
        "peak_tflops": round(peak / 1e12, 4),
    }


def make_data(trial: Trial) -> None:
    """One prepared phantom at the preset's size, and random autoencoder weights."""
    preset = trial.architecture
    settings = ABDOMEN_CT.model_copy(
        update={
            "size_yx": (preset.size_px, preset.size_px),
            "spacing_mm_yx": 3.0 * 128 / preset.size_px,
        }
    )
    stored = trial.folder / "prepared" / "bench.zarr"
    if not stored.exists():
        phantom = make_phantom(0, 0, PhantomConfig(num_slices=NUM_SLICES))
        write_prepared(stored, prepare_case(phantom.image, phantom.labels, settings, "bench"))
    case = read_prepared(stored)
    torch.manual_seed(0)
    net = Autoencoder(preset.autoencoder)
    save_weights(trial.weights / AUTOENCODER, net.state_dict())
    manifest = Manifest(
        preset=preset,
        num_classes=case.num_classes,
        class_names=case.class_names,
        schedule=TrainConfig().schedule.model_dump(),
        spacing_mm_yx=settings.spacing_mm_yx,
        modality="ct",
    )
    write_manifest(trial.weights, manifest)


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
        autoencoder=trial.architecture.autoencoder.model_dump(),
        weights=trial.weights,
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
    training = Training(survey(config), rank)
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
