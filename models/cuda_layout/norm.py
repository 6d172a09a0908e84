"""Group normalisation with SiLU, and sums, of channels-last activations; each in three forms.

Constants that the layer before would have added (its bias, the time embedding) are added here: a
constant of a channel moves the channel's mean and nothing else, so that it costs no pass over the
activations. Several inputs stand for their concatenation, which is never made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cuda_layout.compiling import compiled
from models.cuda_layout.forms import FastForms

_TILE_ROWS, _MOST_LANES = 32, 128
_LEAST_CHUNK, _MOST_CHUNKS = 64, 256  # positions of a partial sum; partial sums of an image


class FusedNorm(nn.Module):
    """GroupNorm, then SiLU, of the layer `norm`; its parameters in float32.

    Args:
        norm: whose parameters are taken.
        forms: which form.
        silu: whether SiLU follows.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.GroupNorm, forms: FastForms, *, silu: bool = True) -> None:
        super().__init__()
        self.groups, self.eps, self.silu, self.form = norm.num_groups, norm.eps, silu, forms.norm
        self.register_buffer("weight", norm.weight.detach().float())
        self.register_buffer("bias", norm.bias.detach().float())

    def forward(
        self, *parts: Tensor, rows: Tensor | None = None, table: Tensor | None = None
    ) -> Tensor:
        """Normalise the concatenation of `m c h w` parts.

        Args:
            parts: of one floating type, channels-last.
            rows: `m c` float32, added to every position beforehand; part of a wider matrix serves.
            table: `n c` float32, likewise: image i takes row i % n.

        Returns:
            `m c h w` of the parts' type, channels-last.
        """
        settings = (self.weight, self.bias, self.groups, self.eps, self.silu)
        if self.form == "triton":
            return norm_by_triton(parts, rows, table, *settings)
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if self.form == "compiled":
            return torch.as_tensor(compiled(norm_by_rows)(x, rows, table, *settings))
        return norm_plainly(x, rows, table, *settings)


def norm_plainly(
    x: Tensor,
    rows: Tensor | None,
    table: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    """The plain form: torch's group normalisation in float32."""
    y = x.float() + _constants(x, rows, table)[:, :, None, None]
    y = F.group_norm(y, groups, weight, bias, eps)
    y = F.silu(y) if silu else y
    return y.to(x.dtype, memory_format=torch.channels_last)


def norm_by_rows(
    x: Tensor,
    rows: Tensor | None,
    table: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    """The same as sums over channels-last rows, for a compiler to fuse."""
    m, c, h, w = x.shape
    y = x.permute(0, 2, 3, 1).reshape(m, h * w, c).float()
    y = y + _constants(x, rows, table)[:, None, :]
    by_channel = torch.var_mean(y, dim=1, correction=0)
    variance, mean = (v.reshape(m, groups, c // groups) for v in by_channel)
    centre = mean.mean(dim=2, keepdim=True)
    spread = (variance + (mean - centre).square()).mean(dim=2, keepdim=True)
    rate = torch.rsqrt(spread + eps).expand(m, groups, c // groups).reshape(m, c)
    scale = rate * weight
    shift = bias - centre.expand(m, groups, c // groups).reshape(m, c) * scale
    y = y * scale[:, None, :] + shift[:, None, :]
    y = F.silu(y) if silu else y
    return y.to(x.dtype).reshape(m, h, w, c).permute(0, 3, 1, 2)


def norm_by_triton(
    parts: Sequence[Tensor],
    rows: Tensor | None,
    table: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    """Own kernels: activations are read twice and written once."""
    from models.cuda_layout.kernels import norms as kernels

    parts = [part.contiguous(memory_format=torch.channels_last) for part in parts]
    m, p = len(parts[0]), parts[0].shape[2] * parts[0].shape[3]
    chunk = max(_LEAST_CHUNK, _power(-(-p // _MOST_CHUNKS)))
    moments = _moments(parts, chunk)
    total = moments.shape[-1]
    width = total // groups
    affine = moments.new_empty((m, 2, total))
    kernels.affine_kernel[(groups, m)](
        moments,
        weight,
        bias,
        weight if rows is None else rows,
        0 if rows is None else rows.stride(0),
        weight if table is None else table,
        affine,
        moments.shape[1],
        p,
        total,
        width,
        float(p * width),
        1 if table is None else len(table),
        eps,
        HAS_ROWS=rows is not None,
        HAS_TABLE=table is not None,
        CHUNK=chunk,
        PIECES=_power(moments.shape[1]),
        WIDTH=_power(width),
    )
    return _applied(parts, affine, silu)


def _moments(parts: Sequence[Tensor], chunk: int) -> Tensor:
    """Mean and sum of squares about it, of every channel in every chunk: `m chunks 2 c`."""
    from models.cuda_layout.kernels.norms import moments_kernel

    m, p = len(parts[0]), parts[0].shape[2] * parts[0].shape[3]
    total, pieces, first = sum(part.shape[1] for part in parts), -(-p // chunk), 0
    moments = parts[0].new_empty((m, pieces, 2, total), dtype=torch.float32)
    for x in parts:
        c = x.shape[1]
        lanes = lanes_of(c)
        moments_kernel[(pieces, m, -(-c // lanes))](
            x, moments, p, c, total, first, CHUNK=chunk, ROWS=_TILE_ROWS, LANES=lanes
        )
        first += c
    return moments


def _applied(parts: Sequence[Tensor], affine: Tensor, silu: bool) -> Tensor:
    """The concatenation times scale plus shift (`m 2 c`), with SiLU where asked for."""
    from models.cuda_layout.kernels.norms import apply_kernel

    m, p, total = len(parts[0]), parts[0].shape[2] * parts[0].shape[3], affine.shape[-1]
    out, first = _empty_last(parts[0], total), 0
    for x in parts:
        c = x.shape[1]
        lanes = lanes_of(c)
        apply_kernel[(-(-p // _TILE_ROWS), m, -(-c // lanes))](
            x, affine, out, p, c, total, first, SILU=silu, ROWS=_TILE_ROWS, LANES=lanes
        )
        first += c
    return out


def add(x: Tensor, y: Tensor | None, table: Tensor, forms: FastForms) -> Tensor:
    """`x + y + table` of `m c h w` activations; image i takes row i % n of the table (`n c`)."""
    if forms.norm == "triton":
        return _add_by_triton(x, y, table)
    if forms.norm == "compiled":
        return torch.as_tensor(compiled(add_plainly)(x, y, table))
    return add_plainly(x, y, table)


def add_plainly(x: Tensor, y: Tensor | None, table: Tensor) -> Tensor:
    """The plain form, summed in float32."""
    total = x.float() + _constants(x, None, table)[:, :, None, None]
    total = total if y is None else total + y.float()
    return total.to(x.dtype, memory_format=torch.channels_last)


def _add_by_triton(x: Tensor, y: Tensor | None, table: Tensor) -> Tensor:
    from models.cuda_layout.kernels import norms as kernels

    x = x.contiguous(memory_format=torch.channels_last)
    other = x if y is None else y.contiguous(memory_format=torch.channels_last)
    m, c, h, w = x.shape
    out, lanes = torch.empty_like(x), lanes_of(c)
    kernels.add_kernel[(-(-h * w // _TILE_ROWS), m, -(-c // lanes))](
        x, other, table, out, h * w, c, len(table),
        HAS_Y=y is not None, ROWS=_TILE_ROWS, LANES=lanes,
    )  # fmt: skip
    return out


def lanes_of(channels: int) -> int:
    """Channels that one program of a kernel takes; a power of 2."""
    return min(_MOST_LANES, _power(channels))


def _constants(x: Tensor, rows: Tensor | None, table: Tensor | None) -> Tensor:
    """`m c` float32: the rows and the repeated table."""
    total = x.new_zeros((), dtype=torch.float32) if rows is None else rows.float()
    if table is not None:
        total = total + table.repeat(len(x) // len(table), 1)
    return total.expand(len(x), x.shape[1])


def _empty_last(like: Tensor, channels: int) -> Tensor:
    m, _, h, w = like.shape
    return like.new_empty((m, h, w, channels)).permute(0, 3, 1, 2)


def _power(number: int) -> int:
    """The next power of 2."""
    return 1 << max(number - 1, 0).bit_length()
