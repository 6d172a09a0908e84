"""How known slices stay known while the others are made, under any solver.

`replacement` (RePaint, arXiv:2201.09865, lines 21-24 of the paper's Algorithm 1) puts them at the
noise level of the solver's current timestep; `conditioned` shows them to the model clean. Either
way they are restored exactly at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.sampling.schedule import Level


@dataclass(frozen=True)
class KnownSlices:
    """The given slices of one window.

    Attributes:
        flags: `n` bool.
        latents: `n c h w`, meaningful where flagged.
        eps: `n c h w` unit Gaussian with which they are noised (replacement).
        conditioned: shown clean instead of noised.
    """

    flags: Tensor
    latents: Tensor
    eps: Tensor
    conditioned: bool

    def pin(self, x: Tensor, level: Level) -> Tensor:
        """`x` with its known slices set to what the model expects at this noise level."""
        shown = self.latents
        if not self.conditioned:
            shown = level.alpha * self.latents + level.sigma * self.eps
        return torch.where(self.flags[:, None, None, None], shown, x)

    def restore(self, x: Tensor) -> Tensor:
        """`x` with its known slices exactly as given."""
        return torch.where(self.flags[:, None, None, None], self.latents, x)
