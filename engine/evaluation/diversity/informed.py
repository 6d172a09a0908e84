"""Use of the informed slice: is the volume nearer to it at its own height, and does it matter?

Pure functions on arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.floating[Any]]

_NEAR_SLICES = 1  # the informed height and its neighbours


def errors_by_slice(image: Image, truth: Image, body: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean absolute error of each axial slice inside the body; NaN where there is none."""
    away = np.where(body, np.abs(image.astype(np.float64) - truth), 0.0).sum(axis=(1, 2))
    counts = body.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(counts > 0, away / counts, np.nan))


def own_height_ratio(
    image: Image, truth: Image, body: NDArray[np.bool_], informed_z: int
) -> float | None:
    """Error at the informed slice's height and beside it, over that elsewhere.

    Well below 1 means that the slice is used where it says most; 1 that it is not. The truth is the
    volume that the slice was taken from.

    Returns:
        None where either part has no body, or the error elsewhere is 0.
    """
    errors = errors_by_slice(image, truth, body)
    near = np.abs(np.arange(len(errors)) - informed_z) <= _NEAR_SLICES
    at, away = errors[near & np.isfinite(errors)], errors[~near & np.isfinite(errors)]
    if not at.size or not away.size or not away.mean():
        return None
    return float(at.mean() / away.mean())


def influence_by_slice(one: Image, other: Image, body: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much the informed slice changes each axial slice.

    Args:
        one: a volume.
        other: of the same mask and seed, with another informed slice.
        body: `z y x`.

    Returns:
        Mean absolute difference inside the body; NaN where there is none.
    """
    return errors_by_slice(one, other, body)
