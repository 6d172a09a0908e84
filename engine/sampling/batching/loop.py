"""Schedule, run, step on: the loop that keeps one device full of windows from many volumes.

The batcher decides, the model computes, each volume's state steps on, and whole volumes go to the
finisher. A volume that fails leaves alone; running out of memory halves the batch and tries again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
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
from engine.sampling.batching.fitting import FittingSlices
from engine.sampling.batching.stopwatch import Stopwatch, mark
from engine.sampling.batching.verdict import Verdict
from engine.sampling.config import SamplingConfig
from engine.sampling.networks.latent_model import LatentModel
from engine.sampling.propagation.volume_state import (
    Denoising,
    Place,
    VolumeState,
    accept_all,
    show_all,
)
from engine.sampling.propagation.windows import WindowPlan, plan_windows
from engine.sampling.request import Outcome, SampledVolume, SampleRequest
from models.conditions import Conditions

OnWindow = Callable[[str, int, int], None]
AHEAD = 8  # batches that may be sent to a GPU before the first of them is known to be finite
log = get_logger(__name__)


@dataclass
class _Volume:
    """A volume between its admission and its image; `drawn` is its generated informed slice."""

    request: SampleRequest
    plan: WindowPlan
    conditions: Conditions
    state: VolumeState
    watch: Stopwatch
    drawn: NDArray[np.float32] | None = None
    num_done: int = 0
    verdicts: list[Verdict] = field(default_factory=list)


class VolumeLoop:
    """Volumes in work on one model.

    Args:
        model: networks and device.
        denoising: how windows are denoised.
        config: resolved settings.
        finisher: decodes whole volumes.
        on_window: called with (sample_id, windows done, windows in all).
        thread: draws noise ahead; None draws it when it is needed.
    """

    def __init__(
        self,
        model: LatentModel,
        denoising: Denoising,
        config: SamplingConfig,
        finisher: Finisher[Outcome],
        on_window: OnWindow | None = None,
        thread: Executor | None = None,
    ) -> None:
        self._model, self._denoising, self._config = model, denoising, config
        self._finisher, self._on_window, self._thread = finisher, on_window, thread
        self._batcher = Batcher(
            model.max_windows, config.memory_mb, config.reuse_features, model.sizes
        )
        self._volumes: dict[int, _Volume] = {}
        self._failed: list[Outcome] = []
        self._verdicts: deque[tuple[Verdict, dict[int, _Volume]]] = deque()
        slices = model.slices_at_once
        self._encoding = FittingSlices("encoding", slices)
        self._decoding = FittingSlices("decoding", slices)
        self._num_taken = 0

    @property
    def is_idle(self) -> bool:
        """Whether no volume is in work."""
        return self._batcher.is_idle and not self._verdicts

    @property
    def wants_more(self) -> bool:
        """Whether the next batch has room for another volume."""
        return self._batcher.wants_more

    def take(self, request: SampleRequest) -> None:
        """Encode a request's conditions and queue its windows; one that does not fit fails."""
        config, preset = self._config, self._model.preset
        watch, name = Stopwatch(self._model.device), request.sample_id
        try:
            with watch.stage("encode"):
                request.check(self._model.manifest)
                complete = self._model.completed(request)
                encode = partial(self._model.encode, complete)
                conditions = self._encoding.run(encode, name)
        except SamplingError as error:
            self._failed.append(Outcome(name, error=error))
            return
        num_slices, edge = len(request.mask), preset.latent_px
        given = self._given(request, conditions)
        plan = plan_windows(
            num_slices, preset.window, config.overlap_slices, _start(request, preset.window), given
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
            self._thread,
            given,
        )
        drawn = complete.informed if request.informed is None else None
        self._volumes[key] = _Volume(request, plan, conditions, state, watch, drawn)
        self._batcher.add(
            key,
            plan,
            len(self._denoising.walk),
            self._model.volume_mb(num_slices),
            config.profile == "engine",
        )

    def _given(self, request: SampleRequest, conditions: Conditions) -> dict[int, Tensor]:
        """The informed slice at its own place, where it is this volume's and shall stay."""
        if request.pinned is None or self._config.pin_informed != "yes":
            return {}
        return {request.pinned: conditions.informed[:1]}

    def turn(self) -> None:
        """Run one batch; on a GPU, send it off."""
        batch = self._batcher.next_batch()
        if not batch:
            self._look(wait=True)
            return
        volumes = [self._volumes[job.volume] for job in batch]
        places = [
            Place(volume.state, job.window, job.evaluation)
            for volume, job in zip(volumes, batch, strict=True)
        ]
        try:
            items = show_all(places)
            start = mark(self._model.device)
            estimates = self._model.denoise(items, [volume.conditions for volume in volumes])
            end = mark(self._model.device)
            finite, rows = accept_all(places, estimates)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._out_of_memory(batch)
            return
        for volume in volumes:
            volume.watch.add("denoise", start, end, 1 / len(batch))
        self._step_on(batch, [batch[row] for row in rows], finite)

    def failures(self) -> list[Outcome]:
        """Outcomes of the volumes that have failed since the last call."""
        failed, self._failed = self._failed, []
        return failed

    def _step_on(self, batch: Sequence[Job], judged: Sequence[Job], finite: Tensor) -> None:
        """Record a batch that has run; `finite` tells so of each of the `judged`."""
        ended, whole = self._batcher.advance(batch)
        volumes = {job.volume: self._volumes[job.volume] for job in batch}
        verdict = Verdict(finite, judged, ended)
        for volume in volumes.values():
            volume.verdicts.append(verdict)
        self._verdicts.append((verdict, volumes))
        self._look()
        for key in whole:
            if key in self._volumes:
                self._finisher.submit(partial(self._send, key, self._volumes.pop(key)))

    def _look(self, wait: bool = False) -> None:
        """Look at the verdicts that are there, and with `wait` at all; tell of ended windows."""
        while self._verdicts:
            verdict, volumes = self._verdicts[0]
            if not (wait or verdict.is_there or len(self._verdicts) > AHEAD):
                return
            self._verdicts.popleft()
            bad = {job.volume: job for job in reversed(verdict.bad())}
            for key, job in bad.items():
                if key in self._volumes:  # else it has failed, or `_collect` finds out
                    error = volumes[key].state.not_finite(job.window, job.evaluation)
                    self._fail(key, error)
            for job in verdict.ended:
                if job.volume not in bad:
                    self._tell(volumes[job.volume])

    def _tell(self, volume: _Volume) -> None:
        volume.num_done += 1
        if self._on_window is not None:
            total = len(volume.plan.windows)
            self._on_window(volume.request.sample_id, volume.num_done, total)

    def _send(self, key: int, volume: _Volume) -> Callable[[], Outcome]:
        """Decode; what it returns is called when the image has come."""
        name = volume.request.sample_id
        decode = partial(self._model.decode, volume.state.latents)
        try:
            with volume.watch.stage("decode"):
                image = self._decoding.run(decode, name)
        except SamplingError as error:
            failed = Outcome(name, error=error)
            return lambda: failed
        return partial(self._collect, key, volume, image)

    def _collect(self, key: int, volume: _Volume, image: Tensor) -> Outcome:
        name = volume.request.sample_id
        for job in (job for verdict in volume.verdicts for job in verdict.bad(key)):
            return Outcome(name, error=volume.state.not_finite(job.window, job.evaluation))
        joins, num_windows = volume.plan.joins, len(volume.plan.windows)
        made = np.asarray(image.numpy(), dtype=np.float32)
        seconds = volume.watch.seconds()
        return Outcome(name, SampledVolume(made, joins, num_windows, seconds, volume.drawn))

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
