"""Do the image's edges lie where the mask says, and are they as strong as the real ones?

Pure functions on arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.floating[Any]]

_REACH_PX = 2  # of a border


class EdgeMatch(NamedTuple):
    """Edges near the mask's borders, beside those of the real volume.

    Attributes:
        agreement: correlation of the two gradient magnitudes, -1 to 1; 1 is equal.
        strength: mean gradient magnitude over the real one's; below 1 is blurred.
    """

    agreement: float
    strength: float


def edge_match(image: Image, real: Image, mask: NDArray[np.integer[Any]]) -> EdgeMatch | None:
    """Compare in-plane gradients within 2 pixels of the borders between any two classes.

    Args:
        image: generated, `z y x`.
        real: on the same grid.
        mask: `z y x` class numbers; background is a class, too.

    Returns:
        None where the mask has no border, or one of the images no gradient there.
    """
    near = _near_borders(mask)
    if not near.any():
        return None
    made, true = _gradient(image)[near], _gradient(real)[near]
    if made.std() == 0 or true.std() == 0:
        return None
    agreement = float(np.corrcoef(made, true)[0, 1])
    return EdgeMatch(agreement, float(made.mean() / true.mean()))


def _gradient(image: Image) -> NDArray[np.float64]:
    values = image.astype(np.float64)
    across = [ndimage.sobel(values, axis=axis) for axis in (1, 2)]
    return np.hypot(across[0], across[1])


def _near_borders(mask: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    size = (1, 3, 3)
    border = ndimage.maximum_filter(mask, size) != ndimage.minimum_filter(mask, size)
    grown = ndimage.binary_dilation(border, np.ones((1, 3, 3), bool), iterations=_REACH_PX - 1)
    return np.asarray(grown, np.bool_)
