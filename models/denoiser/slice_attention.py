"""Which attention block a denoiser has, and its variants beside that of models/denoiser/layers.py.

Two switches of `DenoiserSpec`: `slice_position` and `layout`. Knows nothing of conditions.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from models.denoiser.attention import attend
from models.denoiser.layers import Attention, PseudoAttention, group_norm
from models.presets import DenoiserSpec


def build_attention(channels: int, spec: DenoiserSpec) -> nn.Module:
    """The block `spec` asks for; called with `(b n) c h w` and the number of slices or None."""
    if spec.layout == "openai":
        return OpenAIAttention(channels, spec.head_width)
    block = PseudoAttention(channels, spec.head_width)
    if not spec.slice_position:
        block.slices = UnplacedAttention(channels, spec.head_width, zero_output=True)
    return block


class UnplacedAttention(Attention):
    """Slice attention that is not told the place of a slice (ablation of the slice position)."""

    def forward(self, tokens: Tensor, position: Tensor | None = None) -> Tensor:
        """`b t c` -> same shape; `position` is ignored."""
        return super().forward(tokens)


class OpenAIAttention(nn.Module):
    """Spatial, then slice attention as the public GEM-3D weights have them.

    Differs from `PseudoAttention`: both share one group normalisation (over the plane for the
    first, over the slices of one position for the second), projections have a bias, each head's
    query, key and value lie together, and slices carry no position. Both outputs are zero at birth.
    """

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.plane = _Projections(channels, head_width)
        self.slices = _Projections(channels, head_width)

    def forward(self, x: Tensor, num_slices: int | None) -> Tensor:
        """`(b n) c h w` -> same shape; `num_slices` None leaves the slice attention out."""
        h, w = x.shape[-2:]
        x = rearrange(x, "bn c h w -> bn c (h w)")
        x = x + self.plane(self.norm(x))
        if num_slices is not None:
            x = rearrange(x, "(b n) c hw -> (b hw) c n", n=num_slices)
            x = x + self.slices(self.norm(x))
            x = rearrange(x, "(b hw) c n -> (b n) c hw", hw=h * w)
        return rearrange(x, "bn c (h w) -> bn c h w", h=h, w=w)


class _Projections(nn.Module):
    """Multi-head self-attention of `b c t` without norm and residual; zero at birth."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.qkv(rearrange(x, "b c t -> b t c"))
        q, k, v = rearrange(
            tokens, "b t (heads three c) -> three b t heads c", three=3, heads=self.heads
        )
        mixed = rearrange(attend(q, k, v), "b t heads c -> b t (heads c)")
        return torch.as_tensor(rearrange(self.out(mixed), "b t c -> b c t"))
