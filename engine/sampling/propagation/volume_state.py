"""One volume in work: its latents, and the windows in flight over them.

Bi-directional propagation (Algorithm 1 of the paper): the first window, then two chains that
continue its last and its first slice. Which window runs when is the batcher's business; this file
knows what a window starts from, what it is shown at each step, and where its slices go.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from engine.errors import SamplingError
from engine.sampling.diffusion.noise import draw_noise
from engine.sampling.diffusion.schedule import Level
from engine.sampling.propagation.inpainting import KnownSlices, renoise
from engine.sampling.propagation.windows import Window
from engine.sampling.solvers.state import Solver, SolverState


@dataclass(frozen=True)
class Denoising:
    """How every window of a job is denoised.

    Attributes:
        solver: the steps.
        walk: solver steps in the order they are done (inpainting.resampling_walk).
        conditioned: known slices are shown clean and flagged, else put at the step's noise level.
    """

    solver: Solver
    walk: tuple[int, ...]
    conditioned: bool


@dataclass(frozen=True)
class DenoiseItem:
    """One window of a batch, as the model sees it.

    Attributes:
        volume: key of the volume it belongs to.
        window: which slices.
        x: `n c h w`, at the noise level of the step, known slices pinned.
        known: `n` bool, slices shown clean (conditioned inpainting only).
        t: timestep.
        level: amplitudes of signal and noise in x.
        evaluation: how many evaluations of this window came before.
        informed: `1 c h w` latent that replaces the patient's informed slice, and its z; None
            keeps the patient's.
        memory: what the model keeps for this window between evaluations.
    """

    volume: int
    window: Window
    x: Tensor
    known: Tensor
    t: float
    level: Level
    evaluation: int
    informed: tuple[Tensor, int] | None
    memory: dict[str, Any]


@dataclass
class _Flight:
    """A window between its first and its last evaluation."""

    state: SolverState
    known: KnownSlices
    informed: tuple[Tensor, int] | None
    fixed_eps: Tensor | None
    memory: dict[str, Any] = field(default_factory=dict)


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
    ) -> None:
        self.key, self.sample_id, self.seed = key, sample_id, seed
        self._how, self._chained, self._device = denoising, chained, torch.device(device)
        self.latents = torch.full(shape, torch.nan, device=self._device)
        self._flights: dict[Window, _Flight] = {}

    def show(self, window: Window, evaluation: int) -> DenoiseItem:
        """What the model is to see of `window` at its evaluation number `evaluation`."""
        if evaluation == 0:
            self._flights[window] = self._take_off(window)
        flight, solver = self._flights[window], self._how.solver
        index = flight.state.index
        level = solver.levels[index]
        pinned = flight.known.pin(flight.state.x, level, self._known_eps(window, evaluation))
        flight.state = replace(flight.state, x=pinned)
        return DenoiseItem(
            self.key,
            window,
            pinned,
            flight.known.shown_clean,
            solver.timesteps[index],
            level,
            evaluation,
            flight.informed,
            flight.memory,
        )

    def accept(self, window: Window, evaluation: int, x_0: Tensor) -> None:
        """Take the model's estimate of the clean latents and step on.

        Raises:
            SamplingError: the estimate is not finite; names sample, window and step.
        """
        flight, solver, walk = self._flights[window], self._how.solver, self._how.walk
        self._check_finite(x_0, window, evaluation)
        noise = self._noise(window, f"step {evaluation}") if solver.needs_noise else None
        state = solver.step(flight.state, flight.known.restore(x_0), noise)
        if evaluation + 1 == len(walk):
            self._land(window, flight.known.restore(state.x))
            return
        target = walk[evaluation + 1]
        if target < state.index:  # RePaint goes back and tries again
            now, noisier = solver.levels[state.index], solver.levels[target]
            fresh = self._noise(window, f"back {evaluation}")
            state = solver.restart(state, renoise(state.x, now, noisier, fresh), target)
        flight.state = state

    def _take_off(self, window: Window) -> _Flight:
        flags = torch.zeros(window.size, dtype=torch.bool, device=self._device)
        flags[list(window.known_rows)] = True
        given = torch.nan_to_num(self.latents[window.start : window.stop])
        known = KnownSlices(flags, given, self._how.conditioned)
        fixed = None
        if not self._how.conditioned and not self._how.solver.needs_noise:
            fixed = self._noise(window, "known")
        state = SolverState(self._noise(window, "start"))
        return _Flight(state, known, self._informed(window), fixed)

    def _land(self, window: Window, x: Tensor) -> None:
        rows = torch.tensor([z - window.start for z in window.made], device=self._device)
        self.latents[torch.tensor(window.made, device=self._device)] = x[rows]
        del self._flights[window]

    def _informed(self, window: Window) -> tuple[Tensor, int] | None:
        if not self._chained or not window.known:
            return None
        at_start = window.known[0] == window.start
        z = window.known[-1] if at_start else window.known[0]
        return self.latents[z : z + 1].clone(), z

    def _known_eps(self, window: Window, evaluation: int) -> Tensor | None:
        """Noise of known slices: fresh at every step of a noisy solver (line 21), else one draw."""
        if self._how.conditioned:
            return None
        fixed = self._flights[window].fixed_eps
        return self._noise(window, f"known {evaluation}") if fixed is None else fixed

    def _noise(self, window: Window, purpose: str) -> Tensor:
        shape = tuple(self.latents.shape[1:])
        drawn = [
            draw_noise(shape, self.seed, self.sample_id, z, purpose)
            for z in range(window.start, window.stop)
        ]
        return torch.stack(drawn).to(self._device)

    def _check_finite(self, x_0: Tensor, window: Window, evaluation: int) -> None:
        if not torch.isfinite(x_0).all():
            raise SamplingError(
                f"{self.sample_id}: latents of slices {window.start} to {window.stop - 1} are not "
                f"finite at step {evaluation + 1} of {len(self._how.walk)}; check the weights, or "
                "sample in float32"
            )
