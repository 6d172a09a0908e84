"""Is an image a volume of its mask at all? Cheap signs that need no real volume of that mask.

A volume of another patient, or one upside down, has another outline than its mask; a painted one
has no detail. Pure functions on arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.floating[Any]]

_DARK = -0.95  # of [-1, 1]: background is not brighter
_DETAIL_SIGMA_PX = 1.5
_FROM_BORDER_PX = 3


def outline_in_volume(image: Image) -> NDArray[np.bool_]:
    """Body or brain in a volume in [-1, 1]: its largest part above background, each slice filled.

    Args:
        image: `z y x`.
    """
    bright = image > _DARK
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in bright])
    parts, count = ndimage.label(filled)
    if count > 1:
        return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])), np.bool_)
    return np.asarray(filled, np.bool_)


def outline_gap(image: Image, body: NDArray[np.bool_]) -> float:
    """Disagreement of the outlines in image and mask: 1 minus intersection over union.

    Returns:
        0 is equal, 1 nothing in common; NaN without a body.
    """
    if not body.any():
        return math.nan
    seen = outline_in_volume(image)
    return 1.0 - int((seen & body).sum()) / int((seen | body).sum())


def interior_detail(image: Image, mask: NDArray[np.integer[Any]]) -> float:
    """Standard deviation of in-plane detail inside the body, away from all borders of the mask.

    Returns:
        In the image's unit; NaN where no voxel is `_FROM_BORDER_PX` pixels from every border.
    """
    size = (1, 2 * _FROM_BORDER_PX + 1, 2 * _FROM_BORDER_PX + 1)
    inner = ndimage.maximum_filter(mask, size) == ndimage.minimum_filter(mask, size)
    inner &= mask > 0
    if not inner.any():
        return math.nan
    values = image.astype(np.float32)
    sigmas = (0.0, _DETAIL_SIGMA_PX, _DETAIL_SIGMA_PX)
    smooth = ndimage.gaussian_filter(values, sigmas, truncate=2.0)
    return float((values - smooth)[inner].std(dtype=np.float64))
