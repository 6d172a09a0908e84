"""Mean intensities of classes, and how far they are off.

Pure functions on arrays; knows no files and no models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError

Image = NDArray[np.floating[Any]]


def class_means(
    image: Image, mask: NDArray[np.integer[Any]], names: Sequence[str]
) -> dict[str, float]:
    """Mean intensity inside each class of a mask; classes without a voxel are left out.

    Args:
        image: `z y x`, in source units (HU for CT).
        mask: `z y x` class numbers, 0 is background.
        names: names of the classes 1, 2, ...

    Returns:
        `{class name: mean}` in the order of `names`.

    Raises:
        VolumeError: shapes differ.
    """
    if image.shape != mask.shape:
        raise VolumeError(
            f"class means: image {image.shape} and mask {mask.shape} differ; pass both on one grid"
        )
    means = {}
    for number, name in enumerate(names, start=1):
        inside = mask == number
        if inside.any():
            means[name] = float(image[inside].mean(dtype=np.float64))
    return means


def mean_errors(means: Mapping[str, float], truth: Mapping[str, float]) -> dict[str, float]:
    """Generated minus real mean of each class that both have, in their unit."""
    return {name: means[name] - truth[name] for name in means if name in truth}
