"""MS-SSIM beside the paper's: other planes, the volume as a whole, and the body alone.

Half of an axial slice is background, which any method gets right; and slices that are each right
may not fit each other. Where a side is too short for the five scales of `ssim.py`, the finest ones
that fit are taken and their weights scaled to a sum of 1. Pure functions on arrays.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from engine.errors import VolumeError

Image = NDArray[np.floating[Any]]
Stack = NDArray[np.float32]
Plane = Literal["axial", "coronal", "sagittal", "volume"]

_ACROSS: dict[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}
_KERNEL_PX = 7
_SIGMA_PX = 1.5
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest first
_K1, _K2 = 0.01, 0.03
_AT_ONCE = 8  # slices: bounds memory


def num_scales(shortest_px: int) -> int:
    """Scales that a side has room for: 0 to 5.

    >>> [num_scales(px) for px in (6, 7, 70, 112)]
    [0, 1, 4, 5]
    """
    fitting = [s for s in range(1, len(_WEIGHTS) + 1) if shortest_px >= _KERNEL_PX * 2 ** (s - 1)]
    return len(fitting)


def ms_ssim_view(
    image: Image,
    reference: Image,
    data_range: float,
    plane: Plane = "axial",
    body: NDArray[np.bool_] | None = None,
) -> float | None:
    """Multi-scale SSIM over the slices of one plane, or over the volume with a 3D window.

    Args:
        image: generated volume, `z y x`.
        reference: real volume, `z y x`, same shape.
        data_range: width of the intensity range of both.
        plane: whose slices are compared; "volume" takes 3D windows.
        body: `z y x`: only windows whose centre lies inside count, and slices without any do not;
            None counts every window.

    Returns:
        0 (nothing in common) to 1 (equal); None where a side has no room for one window, or there
        is no body.

    Raises:
        VolumeError: shapes differ.
    """
    if image.ndim != 3 or image.shape != reference.shape:
        raise VolumeError(
            f"MS-SSIM of shapes {image.shape} and {reference.shape}: pass two z y x volumes of one "
            "grid"
        )
    x, y = (_stack(np.asarray(a, np.float32), plane) for a in (image, reference))
    inside = None if body is None else _stack(body.astype(np.float32), plane)
    scales = num_scales(min(x.shape[1:]))
    if not scales:
        return None
    weights = np.array(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
    scores = [
        _scores(x[k : k + _AT_ONCE], y[k : k + _AT_ONCE], weights, data_range,
                None if inside is None else inside[k : k + _AT_ONCE])
        for k in range(0, len(x), _AT_ONCE)
    ]  # fmt: skip
    found = np.concatenate(scores)
    found = found[np.isfinite(found)]
    return float(found.mean()) if found.size else None


def _stack(array: Stack, plane: Plane) -> Stack:
    """`n, spatial...`: slices of a plane, or one volume."""
    return array[None] if plane == "volume" else np.moveaxis(array, _ACROSS[plane], 0)


def _scores(
    x: Stack, y: Stack, weights: NDArray[np.float64], data_range: float, inside: Stack | None
) -> NDArray[np.float64]:
    """One score for each of the first axis; NaN without a body."""
    scores = np.ones(len(x))
    for scale, weight in enumerate(weights):
        if scale:
            x, y = _halve(x), _halve(y)
            inside = None if inside is None else _halve(inside)
        last = scale == len(weights) - 1
        similar = _similarity(x, y, data_range, with_luminance=last)
        spatial = tuple(range(1, x.ndim))
        if inside is None:
            term = similar.mean(axis=spatial, dtype=np.float64)
        else:
            counted = _valid(inside)
            total = counted.sum(axis=spatial, dtype=np.float64)
            with np.errstate(invalid="ignore"):
                term = (similar * counted).sum(axis=spatial, dtype=np.float64) / total
        scores *= np.maximum(term, 0.0) ** weight
    return scores


def _similarity(x: Stack, y: Stack, data_range: float, *, with_luminance: bool) -> Stack:
    c_1, c_2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x, var_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    similar = (2 * covariance + c_2) / (var_x + var_y + c_2)
    if with_luminance:
        similar = similar * (2 * mean_x * mean_y + c_1) / (mean_x**2 + mean_y**2 + c_1)
    return np.asarray(similar, np.float32)


def _smooth(x: Stack) -> Stack:
    offsets = np.arange(-(_KERNEL_PX // 2), _KERNEL_PX // 2 + 1)
    kernel = np.exp(-((offsets / _SIGMA_PX) ** 2) / 2)
    kernel /= kernel.sum()
    smooth: Stack = x
    for axis in range(1, x.ndim):
        smooth = correlate1d(smooth, kernel, axis=axis).astype(np.float32)
    return _valid(smooth)


def _valid(x: Stack) -> Stack:
    """Places with a whole window around them."""
    edge = _KERNEL_PX // 2
    return x[(slice(None), *(slice(edge, n - edge) for n in x.shape[1:]))]


def _halve(x: Stack) -> Stack:
    """Means over 2 pixels along each spatial axis; an odd last one is left out."""
    for axis in range(1, x.ndim):
        even = 2 * (x.shape[axis] // 2)
        pairs = np.take(x, range(0, even, 2), axis), np.take(x, range(1, even, 2), axis)
        x = ((pairs[0] + pairs[1]) / 2).astype(np.float32)
    return x
