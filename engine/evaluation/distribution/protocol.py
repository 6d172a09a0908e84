"""What a distribution distance was measured by: named and versioned, so that it can be repeated.

Slices of three planes go to an extractor: FID-A takes axial, FID-C coronal, FID-S sagittal ones,
as the paper does. Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from engine.config import FrozenConfig

Image = NDArray[np.floating[Any]]
View = Literal["axial", "coronal", "sagittal"]
VIEWS: tuple[View, ...] = ("axial", "coronal", "sagittal")
_ACROSS: dict[View, int] = {"axial": 0, "coronal": 1, "sagittal": 2}


class SliceProtocol(FrozenConfig):
    """Which slices go into a distance, and how.

    Attributes:
        version: of this protocol: slices, resize and intensities are as its code says.
        min_body: share of a slice that is body, or it is left out.
        max_slices: of a volume and view, evenly spread over those with body.
        size_px: edge that slices are padded to a square and resized to, linearly.
        intensities: [-1, 1] goes to [0, 1], grey in all three channels, then to the extractor's own
            mean and deviation.
    """

    version: Literal["gem3d-slices/1"] = "gem3d-slices/1"
    min_body: float = Field(0.05, ge=0.0, le=1.0)
    max_slices: int = Field(40, ge=1)
    size_px: int = Field(224, ge=32)
    intensities: Literal["[-1, 1] to [0, 1]"] = "[-1, 1] to [0, 1]"


def slices_of(
    image: Image, body: NDArray[np.bool_], view: View, protocol: SliceProtocol
) -> Iterator[NDArray[np.float32]]:
    """The slices of one view that the protocol takes, as they are.

    Args:
        image: `z y x` in [-1, 1].
        body: `z y x`.
        view: across which axis.
        protocol: which slices.

    Yields:
        Planes of two axes in [-1, 1].
    """
    axis = _ACROSS[view]
    planes, shown = np.moveaxis(image, axis, 0), np.moveaxis(body, axis, 0)
    share = shown.reshape(len(shown), -1).mean(axis=1)
    kept = np.flatnonzero(share >= protocol.min_body)
    if not kept.size:
        return
    count = min(protocol.max_slices, kept.size)
    for k in np.linspace(0, kept.size - 1, count):
        yield np.asarray(planes[kept[round(float(k))]], np.float32)


def squared(plane: NDArray[np.float32], size_px: int) -> NDArray[np.float32]:
    """A plane padded with background (-1) to a square and resized linearly, without smoothing.

    Args:
        plane: two axes in [-1, 1].
        size_px: edge of the result.
    """
    edge = max(plane.shape)
    square = np.full((edge, edge), -1.0, np.float32)
    top, left = ((edge - n) // 2 for n in plane.shape)
    square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    places = (np.arange(size_px) + 0.5) * edge / size_px - 0.5  # centres of pixels
    places = np.clip(places, 0, edge - 1)
    low = np.floor(places).astype(np.intp)
    high = np.minimum(low + 1, edge - 1)
    part = (places - low).astype(np.float32)
    rows = square[low] * (1 - part)[:, None] + square[high] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part) + rows[:, high] * part, np.float32)
