"""Schedule, run, step on: the loop that keeps one device full of windows from many volumes.

The batcher decides, the model computes, each volume's state steps on, and whole volumes go to the
finisher. A volume that fails leaves alone; running out of memory halves the batch and tries again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import SamplingError
from engine.log import get_logger
from engine.memory import is_out_of_memory
from engine.sampling.batching.batcher import Batcher, Job
from engine.sampling.batching.decoding import Finisher
from engine.sampling.config import SamplingConfig
from engine.sampling.networks.latent_model import LatentModel
from engine.sampling.propagation.volume_state import Denoising, VolumeState
from engine.sampling.propagation.windows import WindowPlan, plan_windows
from engine.sampling.request import Outcome, SampledVolume, SampleRequest
from models.conditions import Conditions

OnWindow = Callable[[str, int, int], None]
log = get_logger(__name__)


@dataclass
class _Volume:
    """A volume between its admission and its image; `drawn` is its generated informed slice."""

    request: SampleRequest
    plan: WindowPlan
    conditions: Conditions
    state: VolumeState
    drawn: NDArray[np.float32] | None = None
    num_done: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class VolumeLoop:
    """Volumes in work on one model.

    Args:
        model: networks and device.
        denoising: how windows are denoised.
        config: resolved settings.
        finisher: decodes whole volumes.
        on_window: called with (sample_id, windows done, windows in all).
    """

    def __init__(
        self,
        model: LatentModel,
        denoising: Denoising,
        config: SamplingConfig,
        finisher: Finisher[Outcome],
        on_window: OnWindow | None = None,
    ) -> None:
        self._model, self._denoising, self._config = model, denoising, config
        self._finisher, self._on_window = finisher, on_window
        self._batcher = Batcher(
            config.windows_in_a_batch(model.device), config.memory_mb, config.reuse_features
        )
        self._volumes: dict[int, _Volume] = {}
        self._failed: list[Outcome] = []
        self._decode_batch = config.slices_in_a_batch(model.device)
        self._num_taken = 0

    @property
    def is_idle(self) -> bool:
        """Whether no volume is in work."""
        return self._batcher.is_idle

    @property
    def wants_more(self) -> bool:
        """Whether the next batch has room for another volume."""
        return self._batcher.wants_more

    def take(self, request: SampleRequest) -> None:
        """Encode a request's conditions and queue its windows; one that does not fit fails."""
        config, preset = self._config, self._model.preset
        started = time.perf_counter()
        try:
            request.check(self._model.manifest)
            complete = self._model.completed(request)
            conditions = self._model.encode(complete)
        except SamplingError as error:
            self._failed.append(Outcome(request.sample_id, error=error))
            return
        num_slices, edge = len(request.mask), preset.latent_px
        plan = plan_windows(
            num_slices, preset.window, config.overlap_slices, _start(request, preset.window)
        )
        self._num_taken += 1
        key = self._num_taken
        state = VolumeState(
            key,
            request.sample_id,
            request.seed,
            (num_slices, preset.autoencoder.latent_channels, edge, edge),
            self._denoising,
            config.informed_follows == "chain",
            self._model.device,
        )
        drawn = complete.informed if request.informed is None else None
        volume = _Volume(request, plan, conditions, state, drawn)
        volume.seconds["encode"] = time.perf_counter() - started
        self._volumes[key] = volume
        self._batcher.add(
            key,
            plan,
            len(self._denoising.walk),
            self._model.volume_mb(num_slices),
            config.profile == "engine",
        )

    def turn(self) -> None:
        """Run one batch."""
        batch = self._batcher.next_batch()
        if not batch:
            return
        volumes = [self._volumes[job.volume] for job in batch]
        items = [
            volume.state.show(job.window, job.evaluation)
            for volume, job in zip(volumes, batch, strict=True)
        ]
        started = time.perf_counter()
        try:
            estimates = self._model.denoise(items, [volume.conditions for volume in volumes])
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._out_of_memory(batch)
            return
        share = (time.perf_counter() - started) / len(batch)
        for volume in volumes:
            volume.seconds["denoise"] += share
        self._step_on(batch, estimates)

    def failures(self) -> list[Outcome]:
        """Outcomes of the volumes that have failed since the last call."""
        failed, self._failed = self._failed, []
        return failed

    def _step_on(self, batch: Sequence[Job], estimates: Sequence[Tensor]) -> None:
        for job, x_0 in zip(batch, estimates, strict=True):
            volume = self._volumes.get(job.volume)
            if volume is None:
                continue  # its other chain has failed just now
            try:
                volume.state.accept(job.window, job.evaluation, x_0)
            except SamplingError as error:
                self._fail(job.volume, error)
        ended, whole = self._batcher.advance([j for j in batch if j.volume in self._volumes])
        for job in ended:
            volume = self._volumes[job.volume]
            volume.num_done += 1
            if self._on_window is not None:
                total = len(volume.plan.windows)
                self._on_window(volume.request.sample_id, volume.num_done, total)
        for key in whole:
            self._finisher.submit(partial(self._finish, self._volumes.pop(key)))

    def _finish(self, volume: _Volume) -> Outcome:
        """Decode; runs beside the next batches."""
        name = volume.request.sample_id
        started = time.perf_counter()
        try:
            image = self._decode(volume.state.latents, name)
        except SamplingError as error:
            return Outcome(name, error=error)
        volume.seconds["decode"] = time.perf_counter() - started
        joins, num_windows = volume.plan.joins, len(volume.plan.windows)
        seconds = dict(volume.seconds)
        return Outcome(name, SampledVolume(image, joins, num_windows, seconds, volume.drawn))

    def _decode(self, latents: Tensor, name: str) -> NDArray[np.float32]:
        while True:
            try:
                return self._model.decode(latents, self._decode_batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._decode_batch == 1:
                    raise SamplingError(
                        f"{name}: out of memory decoding a single slice; use a device with more "
                        "memory or weights with a smaller autoencoder"
                    ) from None
                self._decode_batch //= 2
                log.warning("out of memory: decoding %d slices at a time", self._decode_batch)

    def _out_of_memory(self, batch: Sequence[Job]) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._batcher.halve():
            log.warning("out of memory: batches of %d windows from now", self._batcher.max_windows)
            return
        for job in batch:
            name = self._volumes[job.volume].request.sample_id
            self._fail(
                job.volume,
                SamplingError(
                    f"{name}: out of memory with a single window of {job.window.size} slices; use "
                    "a device with more memory, a lower precision or smaller weights"
                ),
            )

    def _fail(self, key: int, error: SamplingError) -> None:
        volume = self._volumes.pop(key)
        self._batcher.drop(key)
        self._failed.append(Outcome(volume.request.sample_id, error=error))


def _start(request: SampleRequest, window: int) -> int:
    """Where the first window starts: as asked, else around the informed height."""
    if request.start is not None:
        return request.start
    middle = round(request.informed_position * (len(request.mask) - 1))
    return middle - window // 2
