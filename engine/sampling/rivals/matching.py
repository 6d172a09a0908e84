"""Quantile matching by class: a real volume in the appearance of one slice.

Histogram matching (Nyul and Udupa 1999) inside each class of the mask. Pure functions on arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEVELS = np.linspace(0.0, 1.0, 101)
MIN_PIXELS = 20
"""Pixels of a class in the slice that a distribution is taken of."""


def match_quantiles(
    image: NDArray[np.float32],
    mask: NDArray[np.uint8],
    informed: NDArray[np.float32],
    informed_mask: NDArray[np.uint8],
) -> NDArray[np.float32]:
    """Give each class the distribution that it has in the informed slice.

    Args:
        image: `z y x` in [-1, 1].
        mask: `z y x` class numbers; background stays as it is.
        informed: `y x` in [-1, 1].
        informed_mask: `y x` class numbers. A class with fewer than `MIN_PIXELS` pixels there stays
            as it is.

    Returns:
        `z y x`; voxels of one class keep their order.
    """
    matched = image.copy()
    for number in np.unique(mask[mask > 0]):
        goal = informed[informed_mask == number]
        if goal.size < MIN_PIXELS:
            continue
        inside = mask == number
        values = image[inside]
        was, wanted = np.quantile(values, _LEVELS), np.quantile(goal, _LEVELS)
        matched[inside] = np.interp(values, was, wanted)
    return matched
