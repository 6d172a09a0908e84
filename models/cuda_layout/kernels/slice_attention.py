"""Triton kernel of attention among the slices of a window; imported only where Triton is.

At most 64 slices attend to each other, at each of hundreds of thousands of positions: the kernel is
bound by memory, and a tile of 64 rows holds several positions whose products do not mix.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def slice_attention_kernel(
    qkv,  # (b n p) (3 heads width)
    table,  # n (3 heads width), added to qkv
    out,  # (b n p) (heads width)
    slices,
    positions,
    heads,
    width,
    scale,  # of scores, times log2(e)
    SLICES: tl.constexpr,  # next power of 2
    TILE: tl.constexpr,  # rows: positions times SLICES
    WIDTH: tl.constexpr,  # next power of 2, 16 at least
):
    """One head at `TILE / SLICES` positions of one window."""
    head = tl.program_id(0)
    window = tl.program_id(2).to(tl.int64)
    row = tl.arange(0, TILE)
    place = row // SLICES
    index = row % SLICES
    position = tl.program_id(1) * (TILE // SLICES) + place
    real = (index < slices) & (position < positions)
    token = (window * slices + index) * positions + position
    lane = tl.arange(0, WIDTH)
    inside = real[:, None] & (lane < width)[None, :]
    channels = heads * width
    column = head * width + lane
    source = qkv + token[:, None] * 3 * channels + column[None, :]
    added = table + index[:, None] * 3 * channels + column[None, :]
    kind = qkv.dtype.element_ty
    q = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    q = (q + tl.load(added, mask=inside, other=0.0)).to(kind)
    k = tl.load(source + channels, mask=inside, other=0.0).to(tl.float32)
    k = (k + tl.load(added + channels, mask=inside, other=0.0)).to(kind)
    v = tl.load(source + 2 * channels, mask=inside, other=0.0).to(tl.float32)
    v = (v + tl.load(added + 2 * channels, mask=inside, other=0.0)).to(kind)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    together = (place[:, None] == place[None, :]) & (index < slices)[None, :]
    scores = tl.where(together, scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    total = tl.sum(weights, 1)
    mixed = tl.dot(weights.to(kind), v, input_precision="ieee") / total[:, None]
    target = out + token[:, None] * channels + column[None, :]
    tl.store(target, mixed.to(kind), mask=inside)
