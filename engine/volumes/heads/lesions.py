"""Lesions inside the white matter, with masks in BraTS's classes.

A lesion is the part of the white matter where a growth time is smaller than the lesion's age: the
time is the distance from a seed, stretched along a random direction and made irregular by a smooth
random field. So a lesion that grows holds all it held before, follows the white matter between the
gyri as edema does, and crosses to the other side through the corpus callosum only. The order from
within is necrosis, enhancing rim, non-enhancing tumour, edema. Knows no intensities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.errors import VolumeError
from engine.volumes.heads.anatomy import Anatomy
from engine.volumes.heads.fields import Field, smooth_field
from engine.volumes.heads.structures import where

NECROSIS, EDEMA, NON_ENHANCING, ENHANCING = 1, 2, 3, 4  # places in `labels.LESION_CLASSES`
_RADIUS_MM = (16.0, 32.0)  # of the whole lesion when it is grown
_CORE = (0.45, 0.70)  # of the radius: where edema begins
_DEPTH_MM = 4.0  # of the seed, from the white matter's surface
_MIN_VOXELS = 50
_REACH = 1.9  # of the radius: how far stretching and irregularity may carry it


@dataclass(frozen=True)
class LesionPlan:
    """One lesion of one patient, before it has grown.

    Attributes:
        time: when each voxel is reached, in mm of a round lesion's radius; infinite outside the
            white matter, `z y x`.
        radius_mm: when it is grown.
        core: share of the radius that is no edema.
        rim: share of the core's radius where necrosis ends.
        patches: decides between non-enhancing and enhancing tumour, standard deviation 1.
    """

    time: Field
    radius_mm: float
    core: float
    rim: float
    patches: Field

    def mask(self, growth: float = 1.0) -> NDArray[np.uint8]:
        """The lesion at a time: 0, or 1..4 for `LESION_CLASSES`.

        Args:
            growth: 0 (nothing yet) to 1 (grown); the whole lesion at an earlier time lies inside
                that of a later one.
        """
        share = self.time / np.float32(max(growth, 1e-6) * self.radius_mm)
        core = share < self.core
        necrosis = share < self.core * self.rim
        outer = (share > self.core * (self.rim + 1.0) / 2) & (self.patches > 0.0)
        mask = np.where(share < 1.0, EDEMA, 0)
        mask[core] = ENHANCING
        mask[core & outer] = NON_ENHANCING
        mask[necrosis] = NECROSIS
        return mask.astype(np.uint8)


def plan_lesion(anatomy: Anatomy, rng: np.random.Generator) -> LesionPlan:
    """Draw a lesion's place, size and shape.

    Raises:
        VolumeError: the head has too little white matter for one.
    """
    white = where(anatomy.tissues, "white_matter")
    deep = np.argwhere(ndimage.distance_transform_edt(white) >= _DEPTH_MM)
    if len(deep) < _MIN_VOXELS:
        raise VolumeError(f"{anatomy.name}: too little white matter for a lesion; make it without")
    seed = deep[rng.integers(len(deep))]
    radius = float(rng.uniform(*_RADIUS_MM))
    time = np.full(anatomy.size_zyx, np.inf, dtype=np.float32)
    patches = np.zeros(anatomy.size_zyx, dtype=np.float32)
    box = tuple(
        slice(max(0, int(c - _REACH * radius)), int(min(n, c + _REACH * radius + 1)))
        for c, n in zip(seed, anatomy.size_zyx, strict=True)
    )
    inner = _times(white[box], seed - [part.start for part in box], radius, rng)
    time[box] = inner
    patches[box] = smooth_field(rng, inner.shape, 3.0)
    return LesionPlan(
        time, radius, float(rng.uniform(*_CORE)), float(rng.uniform(0.45, 0.75)), patches
    )


def _times(
    white: NDArray[np.bool_], seed: NDArray[np.intp], radius: float, rng: np.random.Generator
) -> Field:
    """Growth times of a box; a part of the white matter that the lesion cannot reach has none."""
    size = (white.shape[0], white.shape[1], white.shape[2])
    axes = np.ogrid[: size[0], : size[1], : size[2]]
    offset = np.stack(np.broadcast_arrays(*(a - c for a, c in zip(axes, seed, strict=True))))
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    along = np.tensordot(direction, offset, axes=1)
    squared = (offset**2).sum(axis=0) - along**2 * (1.0 - 1.0 / rng.uniform(1.1, 1.6) ** 2)
    wobble = 0.22 * smooth_field(rng, size, 6.0) + 0.08 * smooth_field(rng, size, 2.6)
    time = np.sqrt(squared) * np.exp(wobble)
    time[tuple(seed)] = 0.0
    time[~white] = np.inf
    return _reachable(time.astype(np.float32), seed, radius)


def _reachable(time: Field, seed: NDArray[np.intp], radius: float) -> Field:
    """Never before all voxels on some way from the seed are reached, in steps of 1 mm."""
    reached = np.zeros(time.shape, dtype=np.bool_)
    reached[tuple(seed)] = True
    result = np.full(time.shape, np.inf, dtype=np.float32)
    result[tuple(seed)] = 0.0
    for age in np.arange(1.0, radius + 1.0):
        grown = ndimage.binary_propagation(reached, mask=time < age)
        new = grown & ~reached
        result[new] = np.minimum(np.maximum(time[new], age - 1.0), age)
        reached = grown
    return result
