"""What one sees of a training: log lines, progress file, trackers, and where the time goes.

Watches only: nothing that is learnt depends on it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.errors import EngineError
from engine.log import get_logger
from engine.training.config import TrainConfig
from engine.training.optimisation.batching import Batching
from engine.training.optimisation.ema import Ema
from engine.training.optimisation.pace import Pace
from engine.training.optimisation.precision import LossScale
from engine.training.stages.base import StageModel, Survey
from engine.training.watch.previews import Previews
from engine.training.watch.trackers import TrackerSink, open_trackers

log = get_logger(__name__)

LOG_EVERY_S = 15.0
NUM_BUCKETS = 10
_COUNTED_PASSES = 2  # forward, and backward with the optimiser's step


class Monitor:
    """Numbers of one worker's training; only the first worker shows them.

    Args:
        survey: of the training.
        stage: what is trained.
        batching: examples of a step.
        shown: whether this worker shows anything.
    """

    def __init__(
        self, survey: Survey, stage: StageModel, batching: Batching, *, shown: bool
    ) -> None:
        self.config = config = survey.config
        self.stage, self.batching, self.shown = stage, batching, shown
        self.norm = float("nan")
        self.working_s = self.waiting_s = 0.0
        self.flops = 0  # of one micro-batch
        self._passes = 0
        self._started = self._logged = time.monotonic()
        self._trackers: list[TrackerSink] = open_trackers(config) if shown else []
        self._previews = Previews(survey) if shown and config.sample_steps else None

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Time of forward, backward and step; their arithmetic is counted once."""
        counting = self._passes < _COUNTED_PASSES
        counter = FlopCounterMode(display=False) if counting else contextlib.nullcontext()
        started = time.perf_counter()
        with counter:
            yield
        self._passes += 1
        if isinstance(counter, FlopCounterMode):
            self.flops += counter.get_total_flops()
            return  # counting is slow and says nothing about the speed
        self.working_s += time.perf_counter() - started

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time for examples that were not ready."""
        started = time.perf_counter()
        yield
        if self._passes >= _COUNTED_PASSES:
            self.waiting_s += time.perf_counter() - started
        else:
            self._started = time.monotonic()

    def is_due(self, pace: Pace) -> bool:
        """Whether this step is to be shown; only the first worker ever shows one."""
        if not self.shown:
            self.stage.trace.drop()
            return False
        every = self.config.log_steps
        if every is None:
            return pace.done or time.monotonic() - self._logged > LOG_EVERY_S
        return pace.done or pace.step % every == 0

    def show(self, pace: Pace, losses: list[float], engine: Any, scale: LossScale) -> None:
        """Show where the training stands."""
        self._logged = time.monotonic()
        values = self._values(pace, losses, engine, scale)
        for tracker in self._trackers:
            tracker.numbers(values, pace.step)
        self._note(pace, values)
        log.info(
            "%s: step %d of %d, loss %.4f, %.2f steps/s, %.0f s elapsed, about %.0f s left",
            self.config.stage, pace.step, self.config.num_iterations, values["loss"],
            pace.steps_per_s, pace.elapsed_s, pace.left_s,
        )  # fmt: skip

    def samples(self, pace: Pace, ema: Ema) -> None:
        """Show what the average makes of fixed cases, when it is time to."""
        if self._previews is None or pace.step % self.config.sample_steps:
            return
        try:
            picture = self._previews.picture(self.stage, ema)
        except EngineError as error:  # a young model may make no finite image
            log.warning("no samples at step %d: %s", pace.step, error)
            return
        for tracker in self._trackers:
            tracker.picture("samples", picture, pace.step)

    def close(self) -> None:
        """Write what trackers still hold."""
        for tracker in self._trackers:
            tracker.close()
        self._trackers = []

    @property
    def share_other(self) -> float:
        """Share of the time outside forward, backward and step, since the second step."""
        total = time.monotonic() - self._started
        return max(0.0, 1.0 - self.working_s / total) if total > 0.0 else 0.0

    def _values(
        self, pace: Pace, losses: list[float], engine: Any, scale: LossScale
    ) -> dict[str, float]:
        rate = self.flops * self.batching.accumulate * pace.steps_per_s
        values = {
            "loss": float(np.mean(losses[-100:])),
            "gradient_norm": self.norm,
            "learning_rate": float(engine.optimizer.param_groups[0]["lr"]),
            "steps_per_s": pace.steps_per_s,
            "examples_per_s": pace.steps_per_s * self.batching.examples,
            "tflops_per_worker": rate / 1e12,
            "share_other": self.share_other,
        }
        if self.config.peak_tflops is not None:
            values["mfu"] = rate / 1e12 / self.config.peak_tflops
        if scale.dynamic:
            values |= {"loss_scale": scale.scale, "skipped_steps": float(scale.num_skipped)}
        parts = {f"loss_{k}": float(v) for k, v in self.stage.trace.parts.items()}
        return values | parts | self._buckets()

    def _buckets(self) -> dict[str, float]:
        """Mean loss in each tenth of the schedule, over the examples since the last line."""
        each, t = self.stage.trace.take()
        schedule = self.stage.schedule
        if schedule is None or not len(each):
            return {}
        length = schedule.num_timesteps
        bucket = t * NUM_BUCKETS // length
        low = [length * i // NUM_BUCKETS for i in range(NUM_BUCKETS + 1)]
        return {
            f"loss_by_timestep/{low[i]:04d}-{low[i + 1] - 1:04d}": float(each[bucket == i].mean())
            for i in torch.unique(bucket).tolist()
        }

    def _note(self, pace: Pace, values: dict[str, float]) -> None:
        row = {
            "stage": self.config.stage,
            "step": pace.step,
            "num_iterations": self.config.num_iterations,
            "elapsed_s": round(pace.elapsed_s, 1),
            "left_s": round(pace.left_s, 1),
            **values,
        }
        path = progress_file(self.config)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


def progress_file(config: TrainConfig) -> Path:
    """Where a stage tells how far it is, a JSON object a line."""
    return config.work / "progress" / f"{config.stage}.jsonl"
