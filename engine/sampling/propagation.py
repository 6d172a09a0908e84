"""Bi-directional propagation: windows of one volume, first, then UP and DOWN side by side.

Both chains continue the first window, and neither depends on the other, so one step of each shares
a batch. Knows the model only as a function (`Denoise`), so tests put a fake one in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor

from engine.errors import SamplingError
from engine.sampling.inpainting import KnownSlices
from engine.sampling.noise import draw_noise
from engine.sampling.schedule import Level
from engine.sampling.solvers import Solver, SolverState
from engine.sampling.windows import Window, WindowPlan


@dataclass(frozen=True)
class DenoiseItem:
    """One window of a batch, as the model sees it.

    Attributes:
        window: which slices.
        x: `n c h w`, noisy, known slices pinned.
        known: `n` bool, slices shown clean (conditioned inpainting only).
        t: timestep, as the network is told.
        level: amplitudes of x.
    """

    window: Window
    x: Tensor
    known: Tensor
    t: float
    level: Level


Denoise = Callable[[Sequence[DenoiseItem]], list[Tensor]]
"""Estimates x_0 (`n c h w` float32 each) of every item of a batch."""


@dataclass(frozen=True)
class Propagation:
    """How one volume is put together.

    Attributes:
        sample_id: for noise and messages.
        seed: of the run.
        latent_shape: (c, h, w).
        solver: the steps.
        conditioned: known slices clean and flagged, else by replacement.
        paired: run UP and DOWN in one batch (the engine), else one after the other (reference).
    """

    sample_id: str
    seed: int
    latent_shape: tuple[int, int, int]
    solver: Solver
    conditioned: bool
    paired: bool

    def run(
        self,
        plan: WindowPlan,
        num_slices: int,
        denoise: Denoise,
        on_window: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Make all latents of a volume.

        Args:
            plan: its windows.
            num_slices: Z.
            denoise: the model.
            on_window: called with (windows done, windows in all).

        Returns:
            `z c h w` float32.

        Raises:
            SamplingError: a latent is not finite; names sample, window and step.
        """
        latents = torch.full((num_slices, *self.latent_shape), torch.nan)
        if self.paired:
            rounds = [[w for w in pair if w] for pair in zip_longest(plan.up, plan.down)]
        else:
            rounds = [[w] for w in (*plan.up, *plan.down)]
        done = 0
        for batch in ([plan.first], *rounds):
            for window, made in zip(batch, self._windows(batch, latents, denoise), strict=True):
                rows = torch.tensor([z - window.start for z in window.made])
                latents[torch.tensor(window.made)] = made[rows]
            done += len(batch)
            if on_window is not None:
                on_window(done, len(plan.windows))
        return latents

    def _windows(self, batch: Sequence[Window], latents: Tensor, denoise: Denoise) -> list[Tensor]:
        """Denoise windows side by side from pure noise to clean latents."""
        known = [self._known(window, latents) for window in batch]
        states = [SolverState(self._noise(window, "start")) for window in batch]
        for index, t in enumerate(self.solver.timesteps):
            level = self.solver.levels[index]
            pinned = [k.pin(s.x, level) for k, s in zip(known, states, strict=True)]
            items = [
                DenoiseItem(w, x, k.flags & self.conditioned, t, level)
                for w, x, k in zip(batch, pinned, known, strict=True)
            ]
            estimates = denoise(items)
            for i, (window, x_0) in enumerate(zip(batch, estimates, strict=True)):
                self._check_finite(x_0, window, index)
                noise = self._noise(window, f"step {index}") if self.solver.needs_noise else None
                state = replace(states[i], x=pinned[i])
                states[i] = self.solver.step(state, known[i].restore(x_0), noise)
        return [k.restore(s.x) for k, s in zip(known, states, strict=True)]

    def _known(self, window: Window, latents: Tensor) -> KnownSlices:
        flags = torch.zeros(window.size, dtype=torch.bool)
        flags[list(window.known_rows)] = True
        given = torch.nan_to_num(latents[window.start : window.stop])
        return KnownSlices(flags, given, self._noise(window, "known"), self.conditioned)

    def _noise(self, window: Window, purpose: str) -> Tensor:
        return torch.stack(
            [
                draw_noise(self.latent_shape, self.seed, self.sample_id, z, purpose)
                for z in range(window.start, window.stop)
            ]
        )

    def _check_finite(self, x_0: Tensor, window: Window, index: int) -> None:
        if not torch.isfinite(x_0).all():
            raise SamplingError(
                f"{self.sample_id}: latents of slices {window.start} to {window.stop - 1} are not "
                f"finite at step {index + 1} of {self.solver.num_evaluations}; check the weights, "
                "or sample in float32"
            )
