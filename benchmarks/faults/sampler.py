"""A sampler without a model, so that a fault strikes everything around one within seconds."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.sampling.config import SamplingConfig
from engine.sampling.request import SampledVolume, SampleRequest

VICTIM = "phantom0001-r00"
"""The sample that faults of a single volume strike."""


@dataclass(frozen=True)
class FakeSampler:
    """Mask, slice and seeded noise; kills its process or runs out of memory at a named sample.

    Attributes:
        place: for files that tell that a sample was struck.
        kill: samples that kill their process every time.
        once: samples that do so the first time.
        short: samples that run out of memory the first time.
        stop: samples that stop their process the first time; it is not dead.
        orphan: samples that wait, the first time, for the end of their raylet.
        seconds: that a volume takes.
    """

    place: Path
    kill: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    orphan: tuple[str, ...] = ()
    seconds: float = 0.0

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume, or do what the fault is."""
        name = request.sample_id
        if name in self.kill or (name in self.once and self._first_time(name)):
            os.kill(os.getpid(), signal.SIGKILL)
        if name in self.stop and self._first_time(name):
            os.kill(os.getpid(), signal.SIGSTOP)
        if name in self.orphan and self._first_time(name):
            time.sleep(60.0)  # somebody waits for the mark; this process ends with the raylet
        if name in self.short and self._first_time(name):
            raise MemoryError("told to run out of memory")
        time.sleep(self.seconds)
        key = hashlib.sha256(f"{request.seed}/{name}".encode()).digest()
        noise = np.random.default_rng(list(key)).normal(size=request.mask.shape)
        assert request.informed is not None
        image = 0.6 * request.informed + 0.1 * request.mask + 0.05 * noise
        return SampledVolume(np.clip(image, -1, 1).astype(np.float32), (), 1, {})

    def _first_time(self, name: str) -> bool:
        mark = self.place / f"{name}.struck"
        if mark.exists():
            return False
        mark.touch()
        return True


@dataclass(frozen=True)
class LoadFake:
    """A `LoadSampler` that survives pickling."""

    sampler: FakeSampler

    def __call__(self, weights: Path, config: SamplingConfig, device: str) -> FakeSampler:
        """The fake, whatever the weights."""
        return self.sampler
