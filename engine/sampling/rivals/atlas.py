"""The aligned mean of training cases: what a volume looks like that knows no patient.

Each case is brought onto one grid by its body's box (scaled and shifted along the three axes), and
the mean is brought onto the box of the mask to fill. Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.sampling.rivals.painting import Means, means_in

_GRID_ZYX = (80, 112, 112)  # 2 MB a case: as fine as a mean of many cases is sharp

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class AlignedCase:
    """A training case on the atlas' grid.

    Attributes:
        patient: whose it is.
        image: `z y x` float16 in [-1, 1]; the body's box fills it.
        body: `z y x` bool, of the same grid.
        means: of its classes.
    """

    patient: str
    image: NDArray[np.float16]
    body: NDArray[np.bool_]
    means: Means


def body_box(mask: NDArray[np.uint8]) -> Box | None:
    """The box of all classes; None of an empty mask."""
    found = ndimage.find_objects((mask > 0).astype(np.uint8))
    if not found or found[0] is None:
        return None
    z, y, x = found[0]
    return z, y, x


def align(patient: str, image: NDArray[np.float32], mask: NDArray[np.uint8]) -> AlignedCase | None:
    """Bring a training case onto the atlas' grid; None of a case without a body."""
    box = body_box(mask)
    if box is None:
        return None
    return AlignedCase(
        patient,
        _fit(image[box], _GRID_ZYX).astype(np.float16),
        _fit((mask[box] > 0).astype(np.float32), _GRID_ZYX) >= 0.5,
        means_in(image, mask),
    )


def mean_image(cases: Iterable[AlignedCase]) -> NDArray[np.float32] | None:
    """The mean of the cases that have a body at each voxel; None of no case.

    Returns:
        `z y x` in [-1, 1]; where no case has a body, the mean of all of them.
    """
    total, count = np.zeros(_GRID_ZYX, np.float32), np.zeros(_GRID_ZYX, np.float32)
    everywhere, number = np.zeros(_GRID_ZYX, np.float32), 0
    for case in cases:
        image = case.image.astype(np.float32)
        total += np.where(case.body, image, 0.0)
        count += case.body
        everywhere += image
        number += 1
    if not number:
        return None
    return np.where(count > 0, total / np.maximum(count, 1.0), everywhere / number)


def usual_means(cases: Iterable[AlignedCase]) -> Means:
    """Of each class, the mean over the cases that have it."""
    found: dict[int, list[float]] = {}
    for case in cases:
        for number, mean in case.means.items():
            found.setdefault(number, []).append(mean)
    return {number: float(np.mean(values)) for number, values in found.items()}


def lay_onto(
    mean: NDArray[np.float32], mask: NDArray[np.uint8], background: float
) -> NDArray[np.float32]:
    """The mean image in the body of a mask, and background around it.

    Args:
        mean: of `mean_image`.
        mask: `z y x` class numbers.
        background: intensity outside the body.
    """
    image = np.full(mask.shape, background, np.float32)
    box = body_box(mask)
    if box is not None:
        shape = mask[box].shape
        fitted = _fit(mean, (shape[0], shape[1], shape[2]))
        image[box] = np.where(mask[box] > 0, fitted, background)
    return image


def _fit(image: NDArray[np.float32], size_zyx: tuple[int, int, int]) -> NDArray[np.float32]:
    """Regrid linearly so that the first and the last voxel of each axis stay the first and last."""
    axes = [
        np.linspace(0, length - 1, new)
        for length, new in zip(image.shape, size_zyx, strict=True)
    ]  # fmt: skip
    for axis, places in enumerate(axes):
        low = np.floor(places).astype(np.intp)
        high = np.minimum(low + 1, image.shape[axis] - 1)
        shape = [1, 1, 1]
        shape[axis] = len(places)
        part = (places - low).astype(np.float32).reshape(shape)
        image = np.take(image, low, axis) * (1 - part) + np.take(image, high, axis) * part
    return np.asarray(image, np.float32)
