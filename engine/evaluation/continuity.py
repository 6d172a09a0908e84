"""Continuity along z: are window joins visible, and does noise flicker from slice to slice?

Two numbers that belong together: noise that differs from slice to slice would hide a seam, so a low
`seam_ratio` counts only beside a low `z_roughness`. Pure functions; knows no files and no models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError

Image = NDArray[np.floating[Any]]


def seam_ratio(image: Image, joins: Sequence[int], body: NDArray[np.bool_]) -> float:
    """How much stronger neighbouring slices differ at window joins than elsewhere.

    `mean |image[z] - image[z - 1]|` over the voxels that lie inside the body in both slices, pooled
    over all z in `joins`, divided by the same mean pooled over all other z. 1 means that joins
    cannot be told from other slices. Inherits the units of nothing: it is a ratio.

    Args:
        image: `z y x`, any intensity unit.
        joins: every z at which slices z - 1 and z come from different windows; 1 <= z < Z.
        body: `z y x` bool, the voxels that count.

    Returns:
        The ratio; NaN when there is no join, nothing else to compare with, or no body there.

    Raises:
        VolumeError: shapes differ, or a join lies outside the volume.
    """
    _check(image, body)
    check_joins(joins, image.shape[0])
    inside = body[1:] & body[:-1]
    steps = np.where(inside, np.abs(np.diff(image.astype(np.float64), axis=0)), 0.0).sum(
        axis=(1, 2)
    )
    return ratio_at_joins(steps, inside.sum(axis=(1, 2)), joins)


def ratio_at_joins(
    steps: NDArray[np.float64], counts: NDArray[np.int64], joins: Sequence[int]
) -> float:
    """`seam_ratio` from sums over slices.

    Args:
        steps: of each z from 1, the sum of `|image[z] - image[z - 1]|` inside the body.
        counts: of each z from 1, the number of these voxels.
        joins: see `seam_ratio`.
    """
    at_join = np.zeros(len(steps), dtype=bool)
    at_join[[z - 1 for z in joins]] = True
    return _ratio(
        _mean(steps[at_join].sum(), counts[at_join].sum()),
        _mean(steps[~at_join].sum(), counts[~at_join].sum()),
    )


def check_joins(joins: Sequence[int], depth: int) -> None:
    """Refuse joins outside a volume of so many slices."""
    outside = [z for z in joins if not 1 <= z < depth]
    if outside:
        raise ValueError(f"joins {outside} lie outside 1..{depth - 1}; pass z of the later slice")


def roughness(image: Image, body: NDArray[np.bool_]) -> float:
    """Mean through-plane over mean in-plane absolute difference of neighbouring voxels in the body.

    Only pairs with both voxels inside the body count, so the body's outline does not. In-plane is
    the mean over y pairs and x pairs together. Depends on the grid's spacing: compare volumes of
    one grid only (see `z_roughness`).

    Args:
        image: `z y x`, any intensity unit.
        body: `z y x` bool.

    Returns:
        The ratio, >= 0; NaN when the body has no such pair or is constant in-plane.
    """
    _check(image, body)
    values = image.astype(np.float64)
    (through, num_through), (rows, num_rows), (columns, num_columns) = (
        _pair_sum(values, body, axis) for axis in range(3)
    )
    return roughness_of((through, num_through), (rows + columns, num_rows + num_columns))


def roughness_of(through: tuple[float, int], in_plane: tuple[float, int]) -> float:
    """`roughness` from the sums of absolute differences of neighbours, and their numbers."""
    return _ratio(_mean(*through), _mean(*in_plane))


def z_roughness(image: Image, body: NDArray[np.bool_], real_roughness: float) -> float:
    """Roughness relative to real volumes: 1 is as smooth along z as they are, 2 twice as rough.

    Args:
        image: generated volume, `z y x`, on the same spacing as the real ones.
        body: `z y x` bool.
        real_roughness: `roughness` of the real volumes (their mean).

    Returns:
        The ratio; NaN when either side is NaN or the real roughness is 0.
    """
    return _ratio(roughness(image, body), real_roughness)


def _check(image: Image, body: NDArray[np.bool_]) -> None:
    if image.ndim != 3 or image.shape != body.shape:
        raise VolumeError(
            f"image {image.shape} and body {body.shape}: pass two z y x arrays of one grid"
        )


def _pair_sum(values: Image, body: NDArray[np.bool_], axis: int) -> tuple[float, int]:
    """Sum of absolute neighbour differences along `axis` inside the body, and the pairs' number."""
    ahead, behind = (
        (slice(None),) * axis + (slice(1, None),),
        (slice(None),) * axis + (slice(None, -1),),
    )
    inside = body[ahead] & body[behind]
    steps = np.abs(values[ahead] - values[behind])
    return float(np.vdot(steps, inside)), int(np.count_nonzero(inside))


def _mean(total: float, count: int) -> float:
    return float(total) / int(count) if count else math.nan


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan
