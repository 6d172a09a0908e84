"""Flicker: brightness and detail that jump back and forth from slice to slice.

A ramp along z is anatomy, a change that is taken back by the next slice is not. Pure functions on
arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.floating[Any]]


def flicker(image: Image, body: NDArray[np.bool_]) -> float | None:
    """Mean |image[z-1] - 2 image[z] + image[z+1]| inside the body, in the image's unit.

    Args:
        image: `z y x`.
        body: `z y x`; a voxel counts when it lies inside in all three slices.

    Returns:
        None with fewer than three slices, or without a body.
    """
    inside = body[:-2] & body[1:-1] & body[2:]
    if not inside.any():
        return None
    values = image.astype(np.float64)
    second = np.abs(values[:-2] - 2 * values[1:-1] + values[2:])
    return float(second[inside].mean())


def brightness_flicker(image: Image, body: NDArray[np.bool_]) -> float | None:
    """The same of the slices' mean brightness inside the body shared by three neighbours."""
    jumps = []
    for z in range(1, len(image) - 1):
        inside = body[z - 1] & body[z] & body[z + 1]
        if inside.any():
            below, here, above = (float(image[k][inside].mean()) for k in (z - 1, z, z + 1))
            jumps.append(abs(below - 2 * here + above))
    return float(np.mean(jumps)) if jumps else None
