"""Painting by numbers: a mask whose every class has one intensity.

Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Means = dict[int, float]
"""Class number -> mean intensity in [-1, 1]; 0 is background."""


def means_in(image: NDArray[np.float32], mask: NDArray[np.uint8]) -> Means:
    """Mean intensity of each class that has a pixel, background too.

    Args:
        image: in [-1, 1], of any shape.
        mask: class numbers of the same shape.
    """
    sums = np.bincount(mask.ravel(), weights=image.ravel().astype(np.float64))
    counts = np.bincount(mask.ravel())
    return {int(k): float(sums[k] / counts[k]) for k in np.flatnonzero(counts)}


def complete(means: Mapping[int, float], usual: Mapping[int, float], num_classes: int) -> Means:
    """A mean for every class: the slice's, else the training cases', else of what else is known.

    Args:
        means: of the informed slice.
        usual: of the training cases.
        num_classes: classes beside background.
    """
    known = {**usual, **means}
    body = [value for number, value in known.items() if number > 0]
    middle = float(np.mean(body)) if body else 0.0
    return {n: known.get(n, middle if n else -1.0) for n in range(num_classes + 1)}


def paint(mask: NDArray[np.uint8], means: Mapping[int, float]) -> NDArray[np.float32]:
    """An image of the mask's shape.

    >>> paint(np.array([[0, 2]], np.uint8), {0: -1.0, 1: 0.0, 2: 0.5}).tolist()
    [[-1.0, 0.5]]
    """
    table = np.array([means[n] for n in range(max(means) + 1)], np.float32)
    return np.asarray(table[mask])
