"""Triton kernels over rows of a matrix: layer normalisation and softmax."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def layer_norm_kernel(
    x,  # r c
    weight,  # c
    bias,  # c
    out,  # r c
    rows,
    channels,
    eps,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,  # next power of 2 of the channels
):
    """Layer normalisation of `ROWS` rows, read once; in float32."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    real = lane < channels
    inside = (row < rows)[:, None] & real[None, :]
    place = row[:, None] * channels + lane[None, :]
    tile = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(tile, 1) / channels
    away = tl.where(inside, tile - mean[:, None], 0.0)
    rate = 1.0 / tl.sqrt(tl.sum(away * away, 1) / channels + eps)
    scale = tl.load(weight + lane, mask=real, other=0.0)
    shift = tl.load(bias + lane, mask=real, other=0.0)
    y = away * rate[:, None] * scale[None, :] + shift[None, :]
    tl.store(out + place, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def softmax_kernel(
    scores,  # r c float32
    out,  # r c
    channels,
    scale,  # of the scores, times log2(e)
    LANES: tl.constexpr,  # next power of 2 of the columns
):
    """Softmax of a row of scaled scores."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    real = lane < channels
    values = tl.load(scores + row * channels + lane, mask=real, other=float("-inf")) * scale
    weights = tl.exp2(values - tl.max(values, 0))
    weights = weights / tl.sum(weights, 0)
    tl.store(out + row * channels + lane, weights.to(out.dtype.element_ty), mask=real)
