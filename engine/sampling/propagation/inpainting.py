"""How known slices stay known while the others are made, under any solver.

`replacement` (RePaint, arXiv:2201.09865, lines 21 to 24 of the paper's Algorithm 1) puts them at
the noise level of the solver's current timestep; `conditioned` shows them to the model clean and
flagged. Either way they are restored exactly at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.sampling.diffusion.schedule import Level


@dataclass(frozen=True)
class KnownSlices:
    """The given slices of one window, or of a batch of them (then all begin with `b`).

    Attributes:
        flags: `n` bool.
        latents: `n c h w`, meaningful where flagged.
        conditioned: shown clean instead of noised.
    """

    flags: Tensor
    latents: Tensor
    conditioned: bool

    @property
    def shown_clean(self) -> Tensor:
        """`n` bool: what the model is told it can trust."""
        return self.flags & self.conditioned

    def pin(self, x: Tensor, level: Level, eps: Tensor | None) -> Tensor:
        """`x` with its known slices set to what the model expects at this noise level.

        Args:
            x: `n c h w`.
            level: of the solver's current timestep.
            eps: `n c h w` unit Gaussian with which known slices are noised; None when conditioned.
        """
        if self.conditioned:
            return self.restore(x)
        assert eps is not None
        return self._put(level.alpha * self.latents + level.sigma * eps, x)

    def restore(self, x: Tensor) -> Tensor:
        """`x` with its known slices exactly as given."""
        return self._put(self.latents, x)

    def _put(self, given: Tensor, x: Tensor) -> Tensor:
        return torch.where(self.flags[..., None, None, None], given, x)


def resampling_walk(num_evaluations: int, jump_length: int, num_resamples: int) -> tuple[int, ...]:
    """Which step follows which when RePaint walks back to harmonise (its section 4.2).

    The steps are cut into runs of `jump_length`; each run is done `num_resamples` times, its noise
    being put back between (`renoise`). One resample is the plain walk.

    Returns:
        Step indices in order, e.g. (0, 1, 0, 1, 2, 3, 2, 3) for 4 steps, length 2, 2 resamples.
    """
    walk: list[int] = []
    for start in range(0, num_evaluations, jump_length):
        walk += [*range(start, min(start + jump_length, num_evaluations))] * num_resamples
    return tuple(walk)


def renoise(x: Tensor, now: Level, target: Level, noise: Tensor) -> Tensor:
    """Diffuse `x` from level `now` back to the noisier `target` (RePaint, line 10)."""
    ratio = target.alpha / now.alpha
    spread = target.sigma**2 - (ratio * now.sigma) ** 2
    return ratio * x + math.sqrt(max(0.0, spread)) * noise
