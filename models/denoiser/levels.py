"""One resolution of the U-Net, and the ways down and up over several.

Shared by the denoiser and its ControlNet branch. Knows nothing of what the channels mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from models.denoiser.image_attention import CrossAttention


class Level(nn.Module):
    """Residual blocks (and attentions) at one resolution, then a change of resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.attentions = nn.ModuleList()
        self.crossings = nn.ModuleList()
        self.resize: nn.Module | None = None

    def add(
        self, block: nn.Module, attention: nn.Module | None, crossing: nn.Module | None = None
    ) -> None:
        """Append a residual block, the attention behind it and its cross-attention to tokens."""
        self.blocks.append(block)
        self.attentions.append(attention if attention is not None else nn.Identity())
        self.crossings.append(crossing if crossing is not None else nn.Identity())

    def step(
        self,
        index: int,
        x: Tensor | tuple[Tensor, ...],
        embedding: Tensor,
        num_slices: int | None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Block and attentions number `index` on `(b n) c h w`; `tokens` are `(b n) t k`.

        A tuple stands for its concatenation, which a block that takes parts never makes.
        """
        block = self.blocks[index]
        if isinstance(x, tuple) and not getattr(block, "takes_parts", False):
            x = torch.cat(x, dim=1)
        y = torch.as_tensor(block(x, embedding, num_slices))
        if not isinstance(self.attentions[index], nn.Identity):
            y = self.attentions[index](y, num_slices)
        if isinstance(self.crossings[index], CrossAttention):
            y = self.crossings[index](y, tokens)
        return y


def levels_of(modules: nn.ModuleList) -> list[Level]:
    """The same levels, typed."""
    return [cast(Level, level) for level in modules]


def descend(
    level: Level,
    x: Tensor,
    embedding: Tensor,
    num_slices: int | None,
    tokens: Tensor | None = None,
) -> list[Tensor]:
    """Skips of one level: x and the output of every block."""
    features = [x]
    for index in range(len(level.blocks)):
        features.append(level.step(index, features[-1], embedding, num_slices, tokens))
    return features


def descend_below(
    down: Sequence[Level],
    middle: Level,
    x: Tensor,
    embedding: Tensor,
    num_slices: int | None,
    tokens: Tensor | None = None,
) -> list[Tensor]:
    """Skips of all levels but the outermost, whose last output is x; then the middle's output."""
    features = [x]
    for outer, level in pairwise(down):
        assert outer.resize is not None
        x = outer.resize(features[-1], num_slices)
        features.extend(descend(level, x, embedding, num_slices, tokens))
    x = features[-1]
    for index in range(2):
        x = middle.step(index, x, embedding, num_slices, tokens)
    return [*features[1:], x]


def ascend(
    level: Level,
    x: Tensor,
    skips: list[Tensor],
    embedding: Tensor,
    num_slices: int | None,
    tokens: Tensor | None = None,
) -> Tensor:
    """One level on the way up; takes its skips from the end of the list."""
    for index in range(len(level.blocks)):
        x = level.step(index, (x, skips.pop()), embedding, num_slices, tokens)
    return x if level.resize is None else torch.as_tensor(level.resize(x, num_slices))
