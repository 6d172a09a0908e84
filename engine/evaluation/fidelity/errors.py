"""Errors of intensities: voxel by voxel inside the body, and inside each class.

Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError

Image = NDArray[np.floating[Any]]


def mean_absolute_error(image: Image, truth: Image, body: NDArray[np.bool_]) -> float | None:
    """Mean magnitude of the difference inside the body, in the images' unit; None without a body.

    Raises:
        VolumeError: shapes differ.
    """
    _check(image, truth, body)
    if not body.any():
        return None
    return float(np.abs(image[body].astype(np.float64) - truth[body]).mean())


def class_absolute_errors(
    image: Image, truth: Image, mask: NDArray[np.integer[Any]], names: Sequence[str]
) -> dict[str, float]:
    """Mean magnitude of the difference inside each class that has a voxel, in the images' unit.

    Args:
        image: generated, `z y x`.
        truth: real, on the same grid.
        mask: `z y x` class numbers.
        names: of the classes 1, 2, ...

    Raises:
        VolumeError: shapes differ.
    """
    _check(image, truth, mask)
    away = np.abs(image.astype(np.float64) - truth).ravel()
    sums = np.bincount(mask.ravel(), weights=away, minlength=len(names) + 1)
    counts = np.bincount(mask.ravel(), minlength=len(names) + 1)
    return {n: float(sums[k] / counts[k]) for k, n in enumerate(names, start=1) if counts[k]}


def _check(image: Image, truth: Image, mask: NDArray[Any]) -> None:
    if not image.shape == truth.shape == mask.shape:
        raise VolumeError(
            f"errors of {image.shape} against {truth.shape} in {mask.shape}: pass arrays of one "
            "grid"
        )
