"""Harmonization: how near intensity distributions of organs are, and how far sites lie apart.

A distribution is given by its quantiles at evenly spaced levels, so that comparing two needs no
voxel; `change_of` asks the voxels whether more than appearance changed. Pure functions on numbers;
knows no files and no models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError

Quantiles = Mapping[str, Sequence[float]]
QuantilePair = tuple[Sequence[float], Sequence[float]]
Image = NDArray[np.floating[Any]]


def distribution_distance(a: Sequence[float], b: Sequence[float]) -> float:
    """First Wasserstein distance of two distributions, in their unit.

    In one dimension it is the mean distance of equal quantiles (Vallender 1974); of evenly spaced
    ones, both ends included, the trapezoidal rule takes the mean.

    Args:
        a: values at evenly spaced quantile levels from 0 to 1.
        b: at the same levels.

    Raises:
        VolumeError: other numbers of levels, or fewer than two.
    """
    if len(a) != len(b) or len(a) < 2:
        raise VolumeError(
            f"distributions of {len(a)} and {len(b)} quantiles; give both the same levels, two or "
            "more"
        )
    apart = np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))
    return float(np.trapezoid(apart) / (len(apart) - 1))


def organ_distances(volume: Quantiles, reference: Quantiles) -> dict[str, float]:
    """`distribution_distance` of every class that both have, by its name."""
    return {
        name: distribution_distance(values, reference[name])
        for name, values in volume.items()
        if name in reference
    }


class Change(NamedTuple):
    """How a volume differs from the one it was made of, in the intensities' unit.

    Attributes:
        shifted: mean distance between the input and the input in the volume's appearance: what the
            harmonization was to do.
        redrawn: mean distance between the volume and the input in its appearance: what no change of
            appearance explains, so that the anatomy is another.
    """

    shifted: float
    redrawn: float


def change_of(
    before: Image, after: Image, mask: NDArray[np.integer[Any]], tables: Mapping[int, QuantilePair]
) -> Change | None:
    """Tell a change of appearance from a change of anatomy, voxel by voxel inside the mask.

    The input in the volume's appearance has, in each class, every voxel at the same quantile as
    before, but of the volume's distribution (histogram matching, Nyul and Udupa 1999): a stand-in
    for the patient's true image at the other site, which nobody has. Where `redrawn` exceeds
    `shifted`, that image was probably nearer to the input than it is to the volume.

    Args:
        before: input volume, `z y x`.
        after: harmonized volume on the same grid, in the same unit.
        mask: `z y x` class numbers; 0 does not count.
        tables: class number -> values at the same quantile levels before and after.

    Returns:
        The two means; None when no voxel has a class of `tables`.

    Raises:
        VolumeError: shapes differ.
    """
    if not before.shape == after.shape == mask.shape:
        raise VolumeError(
            f"change of {before.shape} into {after.shape} under a mask of {mask.shape}: pass three "
            "z y x arrays of one grid"
        )
    shifted = redrawn = 0.0
    count = 0
    for number, (levels_before, levels_after) in tables.items():
        inside = mask == number
        was, became = before[inside], after[inside]
        matched = np.interp(was, levels_before, levels_after)
        shifted += float(np.abs(matched - was).sum())
        redrawn += float(np.abs(became - matched).sum())
        count += was.size
    return Change(shifted / count, redrawn / count) if count else None


def site_spread(means: Mapping[str, Sequence[float]]) -> float | None:
    """How far sites lie apart: standard deviation between the sites' mean values.

    Args:
        means: site -> mean intensity of one organ in each of its volumes.

    Returns:
        The deviation, in the intensities' unit; None with fewer than two sites that have any.
    """
    centres = [float(np.mean(values)) for values in means.values() if len(values)]
    return float(np.std(centres)) if len(centres) > 1 else None


def medoid(features: Mapping[str, Mapping[str, float]]) -> str:
    """The case that all others are nearest to, by the mean difference of the values they share.

    Args:
        features: case -> named values, for example the mean intensity of each organ.

    Returns:
        Its name; of equal ones the first in order.

    Raises:
        VolumeError: there is no case.
    """
    if not features:
        raise VolumeError("the medoid of no cases; give cases with an image")
    names = sorted(features)
    keys = sorted({key for values in features.values() for key in values})
    table = np.array([[features[n].get(k, np.nan) for k in keys] for n in names])
    totals = []
    for row in table:
        apart = np.abs(table - row)
        shared = np.isfinite(apart)
        sums = np.where(shared, apart, 0.0).sum(axis=1)
        counts = shared.sum(axis=1)
        # a case with nothing in common says nothing about nearness
        totals.append(float((sums[counts > 0] / counts[counts > 0]).sum()))
    return names[int(np.argmin(totals))]
