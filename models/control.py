"""ControlNet branch: a second encoder that reads the conditions and adds to the first one's skips.

Zhang et al. (arXiv:2302.05543), trained together with the main branch as in the paper's Table 3,
because there is no foundation model to freeze. The branch reads the whole stack of noisy latents
and conditions; the time embedding is the main branch's. Knows nothing of what the channels mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from models.denoiser import Level


class ControlBranch(nn.Module):
    """Encoder and middle of the denoiser's layout, with a zero convolution at every exit.

    Args:
        enter: convolution of the stack to the first level's channels.
        down: levels of the way down (`models.denoiser.Level`).
        middle: the level at the bottom.
        exits: channels of every skip, in order, then of the middle.
    """

    def __init__(
        self, enter: nn.Module, down: nn.ModuleList, middle: nn.Module, exits: Sequence[int]
    ) -> None:
        super().__init__()
        self.enter, self.down, self.middle = enter, down, middle
        self.exits = nn.ModuleList(_zero_conv(channels) for channels in exits)

    def forward(self, stacked: Tensor, embedding: Tensor, num_slices: int | None) -> list[Tensor]:
        """`(b n) c h w` -> what is to be added to each skip and, last, to the middle."""
        x = self.enter(stacked, num_slices)
        features = walk_down(self.down, self.middle, x, embedding, num_slices)
        pairs = zip(self.exits, features, strict=True)
        return [torch.as_tensor(leave(feature)) for leave, feature in pairs]


def walk_down(
    down: nn.ModuleList,
    middle: nn.Module,
    x: Tensor,
    embedding: Tensor,
    num_slices: int | None,
    tokens: Tensor | None = None,
) -> list[Tensor]:
    """Features of an encoder: the skips (x, then every block and resize), last the middle's."""
    features = [x]
    for module in down:
        level = cast("Level", module)
        for index in range(len(level.blocks)):
            x = level.step(index, x, embedding, num_slices, tokens)
            features.append(x)
        if level.resize is not None:
            x = level.resize(x, num_slices)
            features.append(x)
    for index in range(2):
        x = cast("Level", middle).step(index, x, embedding, num_slices, tokens)
    return [*features, x]


def _zero_conv(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
