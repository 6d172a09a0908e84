"""Attention blocks on channels-last activations: no copy between planes and slices.

Tokens stay in the order `(b n) (h w)`. Norms and projections do not care for it, planes attend to
themselves in that order, and the kernel of slice attention reads across it.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.cuda_layout.forms import FastForms
from models.cuda_layout.norm import add
from models.cuda_layout.rows import layer_norm
from models.denoiser.attention import attend
from models.denoiser.layers import Attention, PseudoAttention, sinusoid
from models.denoiser.slice_attention import UnplacedAttention

_TILE = 64
_PLACES = 64  # slices of which places are projected beforehand; windows have 16


class FastAttention(nn.Module):
    """`PseudoAttention` from the same weights.

    Args:
        block: whose weights are taken.
        dtype: of activations.
        forms: which forms.
    """

    def __init__(self, block: PseudoAttention, dtype: torch.dtype, forms: FastForms) -> None:
        super().__init__()
        self.forms = forms
        self.plane = _Part(block.plane, dtype, forms)
        self.slices: _Part | None = None
        if hasattr(block, "slices"):
            self.slices = _Part(block.slices, dtype, forms, placed=not _is_unplaced(block.slices))

    def forward(self, x: Tensor, num_slices: int | None) -> Tensor:
        """`(b n) c h w` -> same shape; `num_slices` None leaves the slice attention out."""
        _, c, h, w = x.shape
        qkv = rearrange(
            self.plane.project(x), "m t (three a c) -> three m t a c", three=3, a=self.plane.heads
        )
        x = self._joined(x, self.plane, attend(*qkv).reshape(-1, h * w, c))
        if num_slices is None or self.slices is None:
            return x
        qkv, table = self.slices.project(x), self.slices.table(num_slices)
        by_triton = self.forms.slice_attention == "triton" and num_slices <= _TILE
        mix = mix_slices_by_triton if by_triton else mix_slices_plainly
        return self._joined(x, self.slices, mix(qkv, table, self.slices.heads))

    def _joined(self, x: Tensor, part: _Part, mixed: Tensor) -> Tensor:
        """Input plus projected result, whose bias is added with it."""
        h, w = x.shape[-2:]
        y = rearrange(F.linear(mixed, part.out), "m (h w) c -> m c h w", h=h, w=w)
        return add(x, y, part.out_bias, self.forms)


class _Part(nn.Module):
    """Norm and projections of one attention."""

    norm_weight: Tensor
    norm_bias: Tensor
    qkv: Tensor
    out: Tensor
    out_bias: Tensor
    places: Tensor

    def __init__(
        self, source: Attention, dtype: torch.dtype, forms: FastForms, *, placed: bool = False
    ) -> None:
        super().__init__()
        self.forms = forms
        self.heads, self.eps = source.heads, source.norm.eps
        keep = self.register_buffer
        keep("norm_weight", source.norm.weight.detach().float())
        keep("norm_bias", source.norm.bias.detach().float())
        keep("qkv", source.qkv.weight.detach().to(dtype))
        keep("out", source.out.weight.detach().to(dtype))
        keep("out_bias", source.out.bias.detach().float()[None])
        weight = source.qkv.weight.detach().float()
        places = torch.zeros(_PLACES, len(weight), device=weight.device)
        if placed:
            index = torch.arange(_PLACES, device=weight.device)
            places = sinusoid(index, weight.shape[1], 100.0) @ weight.T
        keep("places", places)

    def project(self, x: Tensor) -> Tensor:
        """`m c h w` -> queries, keys and values `m (h w) (3 heads c)`."""
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
        normed = layer_norm(tokens, self.norm_weight, self.norm_bias, self.eps, self.forms)
        return F.linear(normed, self.qkv)

    def table(self, num_slices: int) -> Tensor:
        """What the places of the slices add to the projections: `n (3 heads c)` float32.

        Raises:
            ValueError: a window of more slices than were prepared for.
        """
        if num_slices > len(self.places):
            raise ValueError(f"a window of {num_slices} slices: at most {len(self.places)}")
        return self.places[:num_slices]


def mix_slices_plainly(qkv: Tensor, table: Tensor, heads: int) -> Tensor:
    """Attention among the slices of every position.

    Args:
        qkv: `(b n) p (3 heads c)`.
        table: `n (3 heads c)` float32, added to them.
        heads: of the attention.

    Returns:
        `(b n) p (heads c)`.
    """
    n = len(table)
    placed = rearrange(qkv, "(b n) p k -> b p n k", n=n) + table
    q, k, v = rearrange(
        placed.to(qkv.dtype), "b p n (three a c) -> three (b p) n a c", three=3, a=heads
    )
    p = qkv.shape[1]
    return rearrange(attend(q, k, v), "(b p) n a c -> (b n) p (a c)", p=p)


def mix_slices_by_triton(qkv: Tensor, table: Tensor, heads: int) -> Tensor:
    """The same by one kernel that reads and writes everything once."""
    from models.cuda_layout.kernels.slice_attention import slice_attention_kernel

    m, p, wide = qkv.shape
    n, channels = len(table), wide // 3
    width = channels // heads
    slices = 1 << (n - 1).bit_length()
    out = qkv.new_empty((m, p, channels))
    grid = (heads, -(-p * slices // _TILE), m // n)
    slice_attention_kernel[grid](
        qkv.contiguous(), table, out, n, p, heads, width, math.log2(math.e) / math.sqrt(width),
        SLICES=slices, TILE=_TILE, WIDTH=max(16, 1 << (width - 1).bit_length()),
    )  # fmt: skip
    return out


def _is_unplaced(part: nn.Module) -> bool:
    return isinstance(part, UnplacedAttention)
