"""Replicas: are two draws as different from each other as each is from the truth?

A sampler of the true conditional distribution makes replicas whose mean squared difference to each
other equals that to the truth: both are differences of two independent draws. One whose replicas
are nearly copies has learned a mean. Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.floating[Any]]

NEAR_COPIES = 0.25
"""Below this ratio of `calibration` replicas add little to a data set."""
NEAR_COPIES_RMS = 0.01
"""Root mean square difference, as a share of the intensity range, where no truth is known."""


def spread(images: Sequence[Image], body: NDArray[np.bool_]) -> float | None:
    """Mean squared difference of two replicas inside the body, over all pairs.

    Returns:
        In squared units of the images; None with fewer than two replicas, or without a body.
    """
    if len(images) < 2 or not body.any():
        return None
    pairs = [_mean_square(a[body], b[body]) for a, b in combinations(images, 2)]
    return float(np.mean(pairs))


def calibration(images: Sequence[Image], truth: Image, body: NDArray[np.bool_]) -> float | None:
    """`spread` over the mean squared difference to the truth: 1 is calibrated, 0 is one answer.

    Only where the truth is one draw of what was asked for: the mask's own informed slice.
    """
    between = spread(images, body)
    if between is None:
        return None
    off = float(np.mean([_mean_square(image[body], truth[body]) for image in images]))
    return between / off if off else None


def spread_by_slice(images: Sequence[Image], body: NDArray[np.bool_]) -> list[float | None]:
    """`spread` of each axial slice: where along z the replicas differ."""
    return [spread([image[z] for image in images], body[z]) for z in range(len(body))]


def are_near_copies(between: float | None, calibrated: float | None, data_range: float) -> bool:
    """Whether replicas are so alike that making them was hardly worth it.

    Args:
        between: of `spread`.
        calibrated: of `calibration`; None without a truth.
        data_range: width of the intensity range.
    """
    if between is None:
        return False
    if calibrated is not None:
        return calibrated < NEAR_COPIES
    return float(np.sqrt(between)) < NEAR_COPIES_RMS * data_range


def _mean_square(a: Image, b: Image) -> float:
    return float(np.square(a.astype(np.float64) - b).mean())
