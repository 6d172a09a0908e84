"""Radiomic features of a slice: first-order statistics and grey-level co-occurrence, inside a body.

For the Frechet radiomics distance (FRD: Konz et al., arXiv:2412.01496), whose own implementation
takes them from PyRadiomics. These are our own, by the definitions of Haralick (1973), under the
name and version `FEATURES_VERSION`: distances are comparable within one version only. Pure
functions on arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.floating[Any]]

FEATURES_VERSION = "gem3d-radiomics/1"
NUM_LEVELS = 32
"""Grey levels over [-1, 1]."""
_DISTANCES_PX = (1, 2, 4)
_DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))
_FIRST_ORDER = (
    "mean", "deviation", "skewness", "kurtosis", "p10", "p25", "median", "p75", "p90",
    "mean_absolute_deviation", "root_mean_square", "entropy", "uniformity",
)  # fmt: skip
_TEXTURE = (
    "contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy",
    "cluster_shade", "cluster_prominence", "maximum",
)  # fmt: skip
FEATURE_NAMES = (
    *_FIRST_ORDER, *(f"{name}_{distance}px" for distance in _DISTANCES_PX for name in _TEXTURE)
)  # fmt: skip


def slice_features(plane: Image, body: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Features of one slice.

    Args:
        plane: `y x` in [-1, 1].
        body: `y x`; at least one pixel and one pair of neighbours.

    Returns:
        One value for each of `FEATURE_NAMES`; those without a meaning (a constant slice has no
        skewness) are 0.
    """
    levels = np.clip(((plane + 1.0) * (NUM_LEVELS / 2)).astype(np.intp), 0, NUM_LEVELS - 1)
    values = plane[body].astype(np.float64)
    features = _first_order(values, np.bincount(levels[body], minlength=NUM_LEVELS))
    for distance in _DISTANCES_PX:
        features += _texture(co_occurrence(levels, body, distance))
    return np.array(features)


def co_occurrence(
    levels: NDArray[np.intp], body: NDArray[np.bool_], distance_px: int
) -> NDArray[np.float64]:
    """Symmetric co-occurrence matrix of pairs inside a body, over four directions.

    Args:
        levels: `y x` grey levels below `NUM_LEVELS`.
        body: `y x`.
        distance_px: between the two of a pair; diagonal pairs are as many pixels apart along both
            axes.

    Returns:
        `NUM_LEVELS x NUM_LEVELS`, of sum 1; zeros where no pair lies inside.
    """
    counts = np.zeros(NUM_LEVELS * NUM_LEVELS)
    height, width = levels.shape
    for down, across in _DIRECTIONS:
        dy, dx = down * distance_px, across * distance_px
        one = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
        two = (slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
        inside = body[one] & body[two]
        pairs = levels[one][inside] * NUM_LEVELS + levels[two][inside]
        counts += np.bincount(pairs, minlength=counts.size)
    matrix = counts.reshape(NUM_LEVELS, NUM_LEVELS)
    matrix = matrix + matrix.T
    total = matrix.sum()
    return np.asarray(matrix / total if total else matrix)


def _first_order(values: NDArray[np.float64], histogram: NDArray[np.intp]) -> list[float]:
    mean, deviation = float(values.mean()), float(values.std())
    normed = (values - mean) / deviation if deviation else np.zeros_like(values)
    share = histogram[histogram > 0] / histogram.sum()
    return [
        mean,
        deviation,
        float((normed**3).mean()),
        float((normed**4).mean()),
        *(float(v) for v in np.quantile(values, (0.10, 0.25, 0.50, 0.75, 0.90))),
        float(np.abs(values - mean).mean()),
        float(np.sqrt(np.square(values).mean())),
        float(-(share * np.log2(share)).sum()),
        float(np.square(share).sum()),
    ]


def _texture(matrix: NDArray[np.float64]) -> list[float]:
    i, j = np.mgrid[:NUM_LEVELS, :NUM_LEVELS].astype(np.float64)
    mean = float((i * matrix).sum())
    variance = float(((i - mean) ** 2 * matrix).sum())
    covariance = float(((i - mean) * (j - mean) * matrix).sum())
    shown = matrix[matrix > 0]
    both = i + j - 2 * mean
    return [
        float(((i - j) ** 2 * matrix).sum()),
        float((np.abs(i - j) * matrix).sum()),
        float((matrix / (1.0 + (i - j) ** 2)).sum()),
        float(np.sqrt(np.square(matrix).sum())),
        covariance / variance if variance else 0.0,
        float(-(shown * np.log2(shown)).sum()),
        float((both**3 * matrix).sum()),
        float((both**4 * matrix).sum()),
        float(matrix.max()),
    ]
