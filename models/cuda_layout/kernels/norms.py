"""Triton kernels of group normalisation on channels-last memory; imported only where Triton is.

    moments -> affine -> apply

`x` is `m (h w) c`: m images, positions, channels. Arithmetic is float32. Sums go in an order that
depends on the shape of one image alone, so that an image does not depend on its batch.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def moments_kernel(
    x,  # m p c
    moments,  # m chunks 2 total: mean and sum of squares about it, by channel
    positions,
    channels,
    total,
    first,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Moments of each channel over a chunk of positions.

    Sums are of differences to the chunk's first position, so that a large mean costs no digits;
    they stay in registers until the end.
    """
    piece = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    lane = tl.program_id(2) * LANES + tl.arange(0, LANES)
    real = lane < channels
    start = piece * CHUNK
    base = x + image * positions * channels
    near = tl.load(base + start.to(tl.int64) * channels + lane, mask=real, other=0.0)
    near = near.to(tl.float32)
    sums = tl.zeros((ROWS, LANES), tl.float32)
    squares = tl.zeros((ROWS, LANES), tl.float32)
    for top in range(0, CHUNK, ROWS):
        row = start + top + tl.arange(0, ROWS)
        inside = (row < positions)[:, None] & real[None, :]
        place = row.to(tl.int64)[:, None] * channels + lane[None, :]
        tile = tl.load(base + place, mask=inside, other=0.0).to(tl.float32)
        away = tl.where(inside, tile - near[None, :], 0.0)
        sums += away
        squares += away * away
    count = tl.minimum(positions - start, CHUNK).to(tl.float32)
    total_away = tl.sum(sums, 0)
    mean = near + total_away / count
    spread = tl.maximum(tl.sum(squares, 0) - total_away * total_away / count, 0.0)
    pieces = tl.num_programs(0)
    out = moments + (image * pieces + piece) * 2 * total + first + lane
    tl.store(out, mean, mask=real)
    tl.store(out + total, spread, mask=real)


@triton.jit
def affine_kernel(
    moments,  # m chunks 2 c
    weight,  # c
    bias,  # c
    rows,  # m c, added to x before the norm
    row_stride,
    table,  # n c, added too: image i takes row i % n
    affine,  # m 2 c: scale and shift of every channel
    pieces,
    positions,
    channels,
    width,  # channels of a group
    count,  # values of a group
    table_rows,
    eps,
    HAS_ROWS: tl.constexpr,
    HAS_TABLE: tl.constexpr,
    CHUNK: tl.constexpr,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Scale and shift of the channels of one group, from the moments of all chunks."""
    group = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, WIDTH)
    channel = group * width + lane
    real = lane < width
    added = tl.zeros((WIDTH,), tl.float32)
    if HAS_ROWS:
        added += tl.load(rows + image * row_stride + channel, mask=real, other=0.0)
    if HAS_TABLE:
        place = (image % table_rows) * channels + channel
        added += tl.load(table + place, mask=real, other=0.0)
    base = moments + image * pieces * 2 * channels
    piece = tl.arange(0, PIECES)
    inside = (piece < pieces)[:, None] & real[None, :]
    place = piece[:, None] * 2 * channels + channel[None, :]
    means = tl.load(base + place, mask=inside, other=0.0) + added[None, :]
    spreads = tl.load(base + place + channels, mask=inside, other=0.0)
    sizes = tl.minimum(positions - piece * CHUNK, CHUNK).to(tl.float32)
    weights = tl.where(inside, sizes[:, None], 0.0)
    mean = tl.sum(tl.sum(means * weights, 1), 0) / count
    away = means - mean
    spread = tl.sum(tl.sum(spreads + away * away * weights, 1), 0)
    rate = 1.0 / tl.sqrt(spread / count + eps)
    scale = rate * tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
    out = affine + image * 2 * channels + channel
    tl.store(out, scale, mask=real)
    tl.store(out + channels, shift + (added - mean) * scale, mask=real)


@triton.jit
def apply_kernel(
    x,  # m p c
    affine,  # m 2 total
    out,  # m p total
    positions,
    channels,
    total,
    first,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """`x scale + shift`, with SiLU, to the channels from `first` on."""
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.program_id(2) * LANES + tl.arange(0, LANES)
    real = lane < channels
    inside = (row < positions)[:, None] & real[None, :]
    place = row.to(tl.int64)[:, None] * channels + lane[None, :]
    tile = tl.load(x + image * positions * channels + place, mask=inside, other=0.0)
    base = affine + image * 2 * total + first + lane
    scale = tl.load(base, mask=real, other=0.0)
    shift = tl.load(base + total, mask=real, other=0.0)
    y = tile.to(tl.float32) * scale[None, :] + shift[None, :]
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    place = row.to(tl.int64)[:, None] * total + first + lane[None, :]
    tl.store(out + image * positions * total + place, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def add_kernel(
    x,  # m p c
    y,  # m p c
    table,  # n c
    out,  # m p c
    positions,
    channels,
    table_rows,
    HAS_Y: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """`x + y + table`, where image i takes row i % n of the table."""
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.program_id(2) * LANES + tl.arange(0, LANES)
    real = lane < channels
    inside = (row < positions)[:, None] & real[None, :]
    place = image * positions * channels + row.to(tl.int64)[:, None] * channels + lane[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_Y:
        value += tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
    added = tl.load(table + (image % table_rows) * channels + lane, mask=real, other=0.0)
    value += added[None, :]
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def interleave_kernel(
    phases,  # m (h + 1) (w + 1) (4 c)
    bias,  # c, added
    out,  # m (2 h) (2 w) c
    height,
    width,
    channels,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """`out[2 i + a, 2 j + b] = phases[i + a, j + b, 2 a + b] + bias`."""
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.program_id(2) * LANES + tl.arange(0, LANES)
    real = lane < channels
    inside = (row < 4 * height * width)[:, None] & real[None, :]
    y = row // (2 * width)
    x = row % (2 * width)
    a = y % 2
    b = x % 2
    cell = (y // 2 + a) * (width + 1) + x // 2 + b
    source = (image * (height + 1) * (width + 1) + cell) * 4 + 2 * a + b
    place = source[:, None] * channels + lane[None, :]
    value = tl.load(phases + place, mask=inside, other=0.0)
    if HAS_BIAS:
        added = tl.load(bias + lane, mask=real, other=0.0)
        value = (value.to(tl.float32) + added[None, :]).to(out.dtype.element_ty)
    place = (image * 4 * height * width + row)[:, None] * channels + lane[None, :]
    tl.store(out + place, value, mask=inside)
