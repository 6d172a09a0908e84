"""Training steps of a preset on one device, several stages and number formats in one process."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.training.config import TrainConfig
from engine.training.loop.here import group_of_one
from engine.training.loop.training import Training
from engine.training.stages.survey import survey
from engine.volumes.prepared.store import write_prepared
from machine import matrix_peak_gflops, synchronize
from models.presets import PRESETS
from speed.material import SEED, random_weights, stretched_phantom

WARM_UP = 4  # two of them count the arithmetic, which is slow
_NUM_SLICES = 24


@dataclass(frozen=True)
class TrainingSetting:
    """What is measured.

    Attributes:
        stage: "autoencoder", "slice" or "volume".
        batch: images, slices or windows a step.
        precision: of the networks.
        zero_stage: of DeepSpeed.
    """

    stage: str
    batch: int
    precision: str
    zero_stage: int = 0

    @classmethod
    def parse(cls, text: str) -> TrainingSetting:
        """From a command line.

        >>> TrainingSetting.parse("volume:2:float16:1")
        TrainingSetting(stage='volume', batch=2, precision='float16', zero_stage=1)
        """
        stage, batch, precision, *zero = text.split(":")
        return cls(stage, int(batch), precision, int(zero[0]) if zero else 0)


def training_rows(
    place: Path, preset: str, settings: Sequence[TrainingSetting], device: str, steps: int
) -> list[dict[str, Any]]:
    """A row a setting; one that fails is told, and does not end the others.

    Args:
        place: an empty folder.
        preset: name.
        settings: what is measured.
        device: "cpu" or "cuda".
        steps: measured, after `WARM_UP`.
    """
    case = stretched_phantom(PRESETS[preset].size_px, _NUM_SLICES)
    write_prepared(place / "prepared" / f"{case.case_id}.zarr", case)
    random_weights(place / "weights", PRESETS[preset])
    rows = []
    with group_of_one(device):
        for setting in settings:
            try:
                rows.append(_row(place, preset, setting, device, steps))
            except Exception as error:
                traceback.print_exc()
                sys.stderr.flush()
                told = f"{type(error).__name__}: {error}".replace("\n", " ")
                rows.append({**vars(setting), "error": told[:300]})
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
            print(rows[-1], flush=True)
    return rows


def _row(
    place: Path, preset: str, setting: TrainingSetting, device: str, steps: int
) -> dict[str, Any]:
    started = time.perf_counter()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(SEED)
    config = TrainConfig.model_validate(
        {
            "stage": setting.stage,
            "preset": preset,
            "data": place / "prepared",
            "weights": place / "weights",
            "work": place / f"work_{setting.stage}_{setting.precision}_{setting.zero_stage}",
            "num_iterations": WARM_UP,
            "batch_size": setting.batch,
            "precision": setting.precision,
            "zero_stage": setting.zero_stage,
            "use_gpu": device == "cuda",
            "checkpoint_minutes": 1e6,
            "trackers": (),
        }
    )
    training = Training(survey(config), 0)
    built = time.perf_counter() - started
    training.run()
    synchronize(device)
    warm = time.perf_counter() - started - built
    seconds = _timed(training, steps, device)
    training.close()
    rate = steps / seconds
    # the arithmetic that is counted is of the forward and the backward pass of one micro-batch
    tflops = rate * training.monitor.flops * training.batching.accumulate / 1e12
    dtype = getattr(torch, setting.precision)
    peak = matrix_peak_gflops(dtype, device, 8192 if device == "cuda" else 1024) / 1e3
    return {
        **vars(setting),
        "examples": training.batching.examples,
        "steps_per_s": round(rate, 3),
        "examples_per_s": round(rate * training.batching.examples, 3),
        "tflop_a_step": round(tflops / rate, 4),
        "peak_tflops": round(peak, 4),
        "share_of_peak": round(tflops / peak, 4),
        "params_m": round(sum(p.numel() for p in training.stage.net.parameters()) / 1e6, 1),
        "memory_mb": _memory_mb(device),
        "build_s": round(built, 2),
        "warm_up_s": round(warm, 2),
        "loss": round(float(training.losses[-1]), 4),
    }


def _timed(training: Training, steps: int, device: str) -> float:
    """Seconds of `steps` more steps."""
    training.pace.num_iterations = WARM_UP + steps
    started = time.perf_counter()
    training.run()
    synchronize(device)
    return time.perf_counter() - started


def _memory_mb(device: str) -> float | None:
    return round(torch.cuda.max_memory_allocated() / 1e6, 1) if device == "cuda" else None
