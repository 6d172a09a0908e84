"""ControlNet branch: a second encoder that reads the conditions and adds to the first one's skips.

Zhang et al. (arXiv:2302.05543), trained together with the main branch as in the paper's Table 3,
because there is no foundation model to freeze. The branch reads the whole stack of noisy latents
and conditions; the time embedding is the main branch's. Knows nothing of what the channels mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.denoiser.levels import Level, descend, descend_below, levels_of


class ControlBranch(nn.Module):
    """Encoder and middle of the denoiser's layout, with a zero convolution at every exit.

    Args:
        enter: convolution of the stack to the first level's channels.
        down: levels of the way down (`models.denoiser.levels.Level`).
        middle: the level at the bottom.
        exits: channels of every skip, in order, then of the middle.
    """

    def __init__(
        self, enter: nn.Module, down: nn.ModuleList, middle: Level, exits: Sequence[int]
    ) -> None:
        super().__init__()
        self.enter: nn.Module = enter
        self.down, self.middle = down, middle
        self.exits = nn.ModuleList(_zero_conv(channels) for channels in exits)

    def outermost(self, stacked: Tensor, embedding: Tensor, num_slices: int | None) -> list[Tensor]:
        """`(b n) c h w` stack -> features of the outermost level."""
        x = self.enter(stacked, num_slices)
        return descend(levels_of(self.down)[0], x, embedding, num_slices)

    def below(self, x: Tensor, embedding: Tensor, num_slices: int | None) -> list[Tensor]:
        """Last feature of the outermost level -> features of all others and of the middle."""
        return descend_below(levels_of(self.down), self.middle, x, embedding, num_slices)

    def add(self, own: list[Tensor], features: list[Tensor], first: int = 0) -> list[Tensor]:
        """The main branch's skips plus this branch's features through exits from `first` on."""
        exits = self.exits[first : first + len(own)]
        triples = zip(own, features, exits, strict=True)
        return [torch.add(skip, leave(feature)) for skip, feature, leave in triples]


def _zero_conv(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
