"""One volume in work: its latents, and the windows in flight over them.

Bi-directional propagation (Algorithm 1 of the paper): the first window, then two chains that
continue its last and its first slice. Which window runs when is the batcher's business; this file
knows what a window starts from, what it is shown at each step, and where its slices go. `show_all`
and `accept_all` do so for the windows of a whole batch (flight.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import torch
from torch import Tensor

from engine.errors import SamplingError
from engine.sampling.propagation.flight import (
    DenoiseItem,
    Denoising,
    Flight,
    pin_known,
    share_out,
    stack,
    stacked_known,
    stacked_state,
)
from engine.sampling.propagation.inpainting import KnownSlices, renoise
from engine.sampling.propagation.slice_noise import SliceNoise
from engine.sampling.propagation.windows import Window, runs
from engine.sampling.solvers.state import SolverState

__all__ = ["DenoiseItem", "Denoising", "Place", "VolumeState", "accept_all", "show_all"]


class VolumeState:
    """Latents of one volume, NaN where not made yet.

    Args:
        key: names the volume in its batches.
        sample_id: for noise and messages.
        seed: of the run.
        shape: (z, c, h, w).
        denoising: the same for all windows.
        chained: a window's informed slice is its newest known slice (line 18 of Algorithm 1)
            instead of the patient's.
        device: where latents live; noise is drawn on the CPU.
        thread: draws noise ahead; None draws it when it is needed.
        given: latents `1 c h w` of slices that are known from the beginning, by z.
    """

    def __init__(
        self,
        key: int,
        sample_id: str,
        seed: int,
        shape: tuple[int, int, int, int],
        denoising: Denoising,
        chained: bool = False,
        device: torch.device | str = "cpu",
        thread: Executor | None = None,
        given: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.key, self.sample_id = key, sample_id
        self.how, self._chained, self._device = denoising, chained, torch.device(device)
        self.latents = torch.full(shape, torch.nan, device=self._device)
        for z, latent in (given or {}).items():
            self.latents[z] = latent[0]
        self.flights: dict[Window, Flight] = {}
        self._noise = SliceNoise(shape[1:], seed, sample_id, self._device, thread)
        self._start: Tensor | None = None
        self._ahead = thread is not None
        if self._ahead:
            self._noise.draw_ahead(0, shape[0], "start")

    def show(self, window: Window, evaluation: int) -> DenoiseItem:
        """What the model is to see of `window` at its evaluation number `evaluation`."""
        return show_all([Place(self, window, evaluation)])[0]

    def accept(self, window: Window, evaluation: int, x_0: Tensor) -> None:
        """Take the model's estimate of the clean latents and step on.

        Raises:
            SamplingError: the estimate is not finite; names sample, window and step.
        """
        finite, _ = accept_all([Place(self, window, evaluation)], [x_0])
        if not finite.all():
            raise self.not_finite(window, evaluation)

    def not_finite(self, window: Window, evaluation: int) -> SamplingError:
        """What to say of an estimate that is not finite."""
        return SamplingError(
            f"{self.sample_id}: latents of slices {window.start} to {window.stop - 1} are not "
            f"finite at step {evaluation + 1} of {len(self.how.walk)}; check the weights, or "
            "sample in float32"
        )

    def take_off(self, window: Window) -> None:
        """Begin a window."""
        flags = torch.zeros(window.size, dtype=torch.bool, device=self._device)
        for low, high in runs(window.known_rows):
            flags[low:high] = True
        given = torch.nan_to_num(self.latents[window.start : window.stop])
        known = KnownSlices(flags, given, self.how.conditioned)
        fixed = None
        if window.known and not self.how.conditioned and not self.how.solver.needs_noise:
            fixed = self._noise.of(window.start, window.stop, "known", window.known)
        state = SolverState(self._start_noise(window))
        self.flights[window] = Flight(
            window, state, known, known.shown_clean, self._informed(window), fixed
        )

    def known_eps(self, window: Window, evaluation: int) -> Tensor:
        """Noise of known slices: fresh at every step of a noisy solver (line 21), else one draw."""
        fixed = self.flights[window].fixed_eps
        if fixed is not None:
            return fixed
        purpose = f"known {evaluation}"
        return self._noise.of(window.start, window.stop, purpose, window.known)

    def step_noise(self, window: Window, evaluation: int) -> Tensor:
        """Noise that a noisy solver adds after `evaluation`."""
        drawn = self._noise.of(window.start, window.stop, f"step {evaluation}")
        if evaluation + 1 < len(self.how.walk):
            self._noise.draw_ahead(window.start, window.stop, f"step {evaluation + 1}")
        return drawn

    def jump_noise(self, window: Window, evaluation: int) -> Tensor:
        """Noise with which RePaint goes back after `evaluation`."""
        return self._noise.of(window.start, window.stop, f"back {evaluation}")

    def land(self, window: Window, x: Tensor) -> None:
        """End a window: its slices are whole."""
        for low, high in runs(window.made):
            self.latents[low:high] = x[low - window.start : high - window.start]
        del self.flights[window]

    def _start_noise(self, window: Window) -> Tensor:
        if not self._ahead:
            return self._noise.of(window.start, window.stop, "start")
        if self._start is None:
            self._start = self._noise.of(0, len(self.latents), "start")
        return self._start[window.start : window.stop]

    def _informed(self, window: Window) -> tuple[Tensor, int] | None:
        if not self._chained or not window.known:
            return None
        at_start = window.known[0] == window.start
        z = window.known[-1] if at_start else window.known[0]
        return self.latents[z : z + 1].clone(), z


class Place(NamedTuple):
    """A window of a volume at its evaluation number `evaluation`."""

    volume: VolumeState
    window: Window
    evaluation: int

    @property
    def flight(self) -> Flight:
        """The window in flight."""
        return self.volume.flights[self.window]


def show_all(places: Sequence[Place]) -> list[DenoiseItem]:
    """What the model is to see of each window, in this order; all of one job (`Denoising`)."""
    for volume, window, evaluation in places:
        if evaluation == 0:
            volume.take_off(window)
    how = places[0].volume.how
    for rows in _together(places):
        group = [places[row] for row in rows]
        flights = [place.flight for place in group]
        eps = None
        if not how.conditioned and any(place.window.known for place in group):
            eps = [place.volume.known_eps(place.window, place.evaluation) for place in group]
        pin_known(flights, how.solver.levels[flights[0].state.index], eps)
    return [_item(place) for place in places]


def accept_all(places: Sequence[Place], estimates: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Take the model's estimates of clean latents and step every window on.

    Args:
        places: as they were shown.
        estimates: `n c h w` of each.

    Returns:
        `b` bool on the device: whether an estimate is finite (else see `VolumeState.not_finite`;
        what comes of it is of no use), and to which of the places each value belongs.
    """
    groups = _together(places)
    steps = [
        _step([places[row] for row in rows], stack([estimates[row] for row in rows]))
        for rows in groups
    ]
    finite = torch.cat([step.finite for step in steps])
    for rows, step in zip(groups, steps, strict=True):  # from here on nothing takes memory
        _commit([places[row] for row in rows], step)
    return finite, [row for rows in groups for row in rows]


class _Step(NamedTuple):
    """What a step of windows at the same evaluation leads to, `b n c h w`."""

    finite: Tensor
    state: SolverState
    landed: Tensor | None


def _step(group: Sequence[Place], x_0: Tensor) -> _Step:
    """One step of windows at the same evaluation, from estimates `b n c h w`; changes nothing."""
    how, evaluation = group[0].volume.how, group[0].evaluation
    solver, walk = how.solver, how.walk
    flights = [place.flight for place in group]
    finite = torch.isfinite(x_0).flatten(1).all(1)
    known, noise = stacked_known(flights), None
    if solver.needs_noise:
        noise = stack([p.volume.step_noise(p.window, evaluation) for p in group])
    state = solver.step(stacked_state(flights), known.restore(x_0), noise)
    if evaluation + 1 == len(walk):
        return _Step(finite, state, known.restore(state.x))
    target = walk[evaluation + 1]
    if target < state.index:  # RePaint goes back and tries again
        now, noisier = solver.levels[state.index], solver.levels[target]
        fresh = stack([p.volume.jump_noise(p.window, evaluation) for p in group])
        state = solver.restart(state, renoise(state.x, now, noisier, fresh), target)
    return _Step(finite, state, None)


def _commit(group: Sequence[Place], step: _Step) -> None:
    if step.landed is None:
        share_out(step.state, [place.flight for place in group])
        return
    for place, x in zip(group, step.landed, strict=True):
        place.volume.land(place.window, x)


def _together(places: Sequence[Place]) -> list[list[int]]:
    """Rows of windows that stand at the same evaluation and have the same shape."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, place in enumerate(places):
        groups[place.evaluation, place.window.size].append(row)
    return list(groups.values())


def _item(place: Place) -> DenoiseItem:
    volume, window, evaluation = place
    flight, solver = place.flight, volume.how.solver
    index = flight.state.index
    return DenoiseItem(
        volume.key,
        window,
        flight.state.x,
        flight.shown_clean,
        solver.timesteps[index],
        solver.levels[index],
        evaluation,
        flight.informed,
        flight.memory,
    )
