"""Masks changed in 3D: the paper's mask augmentation (MA), fits to an outline, and lesion edits.

One `MaskChange` says all of it in numbers, so that a plan row can hold it and any machine repeats
it. Changes are done on the mask's 3D grid with nearest neighbour (a class never becomes another
one between two) and in millimetres, so that a rotation stays one on anisotropic voxels. Pure
functions on arrays; knows no file and no plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from engine.config import FrozenConfig
from engine.errors import SamplingError
from engine.seeds import noise_seed

Mask = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Triple = tuple[float, float, float]

_PAPER_SIZE_PX = 512  # the paper's slices; its shift of 60 px is a share of that
_STEPS_BACK = 40  # tries on the way from where a lesion fell to the centre of the contour
_DIGITS = 4  # of recorded numbers: what is recorded is exactly what is done


class MaskChange(FrozenConfig):
    """What is done to a mask, in this order: remove, or flip, rotate, scale and shift.

    Attributes:
        purpose: why: mask augmentation, a fit to the informed slice's outline, or an edit.
        classes: that move, by number; empty is the whole mask.
        component: with classes: 1 for their largest connected component, 2 for the second, ...;
            None is all of them.
        remove: the classes become what surrounds them; nothing else is done.
        flip_x: left and right change places, about the middle of the contour.
        rotate_deg_zyx: rotations about the axes z, y, x through the object's centre, in this order.
        scale_zyx: growth about the object's centre.
        shift_mm_zyx: translation of the object.
    """

    purpose: Literal["augmentation", "fit", "edit"]
    classes: tuple[int, ...] = ()
    component: int | None = Field(None, ge=1)
    remove: bool = False
    flip_x: bool = False
    rotate_deg_zyx: Triple = (0.0, 0.0, 0.0)
    scale_zyx: Triple = (1.0, 1.0, 1.0)
    shift_mm_zyx: Triple = (0.0, 0.0, 0.0)


class AugmentRanges(FrozenConfig):
    """How far mask augmentation may go.

    Attributes:
        target: the whole mask, or its lesion classes inside the contour.
        max_rotate_deg: rotation about each axis, either way.
        flip: whether left and right may change places (every second time).
        max_shift_share: shift towards the contour's centre, as a share of the slice's edge.
    """

    target: Literal["mask", "lesions"]
    max_rotate_deg: float = Field(0.0, ge=0.0, le=180.0)
    flip: bool = False
    max_shift_share: float = Field(0.0, ge=0.0, le=1.0)


BRAIN = AugmentRanges(
    target="lesions", max_rotate_deg=2.5, flip=True, max_shift_share=60 / _PAPER_SIZE_PX
)
"""The paper's for BraTS (arXiv:2403.12852, App. A): the tumour moves, the brain stays."""

ABDOMEN = AugmentRanges(target="mask", max_rotate_deg=2.5)
"""The paper's for AbdomenCT-1K: rotation only, so that organs stay on their side."""


def draw_change(
    ranges: AugmentRanges,
    seed: int,
    sample_id: str,
    lesion_classes: Sequence[int],
    edge_mm: float,
    towards: Triple | None,
) -> MaskChange:
    """Draw one mask augmentation; equal arguments give equal numbers.

    Args:
        ranges: how far.
        seed: of the run.
        sample_id: of the sample.
        lesion_classes: what moves with target "lesions".
        edge_mm: length of a slice's edge.
        towards: unit vector from the object to the contour's centre, z y x; None draws no shift.
    """
    rng = np.random.default_rng(noise_seed(seed, sample_id, 0, "mask augmentation"))
    angles = rng.uniform(-ranges.max_rotate_deg, ranges.max_rotate_deg, size=3)
    flip = bool(rng.integers(2)) and ranges.flip
    length_mm = float(rng.uniform(0.0, ranges.max_shift_share * edge_mm))
    shift = np.zeros(3) if towards is None else np.asarray(towards) * length_mm
    if flip:
        shift[2] = -shift[2]  # the way to the centre is mirrored with the lesion
    return MaskChange(
        purpose="augmentation",
        classes=tuple(lesion_classes) if ranges.target == "lesions" else (),
        flip_x=flip,
        rotate_deg_zyx=_triple(angles),
        shift_mm_zyx=_triple(shift),
    )


def way_to_centre(mask: Mask, classes: Sequence[int], spacing_mm_zyx: Triple) -> Triple | None:
    """Unit vector (z y x, in mm) from the classes' centre to that of everything not background.

    None where the classes are not there, or lie in the centre already.
    """
    picked = np.isin(mask, list(classes))
    if not picked.any():
        return None
    way = (_centre(mask > 0) - _centre(picked)) * np.asarray(spacing_mm_zyx)
    length = float(np.linalg.norm(way))
    return None if length < 1e-6 else _triple(way / length)


def apply_change(mask: Mask, change: MaskChange, spacing_mm_zyx: Triple) -> Mask:
    """The changed mask, on the same grid.

    With `classes`, what they leave behind becomes the nearest class around it, and what they become
    stays inside the body (everything that is not background): an object that would leave it is
    moved back towards its centre, and what still hangs over is cut off.

    Args:
        mask: `z y x` uint8 classes, 0 is background.
        change: what to do.
        spacing_mm_zyx: of the mask's grid.

    Raises:
        SamplingError: the classes or the component are not in the mask, or nothing is left of them.
    """
    if not change.classes:
        if change.remove:
            raise SamplingError("removing the whole mask leaves nothing; name classes to remove")
        centre = (np.asarray(mask.shape, dtype=np.float64) - 1) / 2
        return _moved(mask, change, spacing_mm_zyx, centre, centre)
    picked = _pick(mask, change)
    rest = _healed(mask, picked)
    if change.remove:
        return rest
    inside = mask > 0
    centre = _centre(picked)
    target = centre.copy()
    if change.flip_x:
        target[2] = 2 * _centre(inside)[2] - centre[2]
    moved = _moved(np.where(picked, mask, 0), change, spacing_mm_zyx, centre, target)
    if not moved.any():
        raise SamplingError(
            f"classes {list(change.classes)}: nothing is left of them after the change; "
            "shift or shrink less"
        )
    return _put_inside(rest, moved, inside)


def _pick(mask: Mask, change: MaskChange) -> Bools:
    picked: Bools = np.isin(mask, list(change.classes))
    if not picked.any():
        raise SamplingError(
            f"classes {list(change.classes)} are not in this mask; name classes that it has"
        )
    if change.component is None:
        return picked
    labels, count = ndimage.label(picked, np.ones((3, 3, 3)))
    if change.component > count:
        raise SamplingError(
            f"component {change.component} of classes {list(change.classes)}: "
            f"the mask has {count}; name one of these"
        )
    sizes = np.bincount(labels.ravel())[1:]
    order = np.argsort(-sizes, kind="stable")
    return np.asarray(labels == 1 + order[change.component - 1])


def _healed(mask: Mask, picked: Bools) -> Mask:
    """What was picked becomes the nearest class around it, background where nothing else is."""
    known = ~picked & (mask > 0)
    if not known.any():
        return np.where(picked, 0, mask).astype(np.uint8)
    box = _box(picked, mask.shape, known)
    nearest = ndimage.distance_transform_edt(
        ~known[box], return_distances=False, return_indices=True
    )
    assert nearest is not None
    filled = mask.copy()
    part = mask[box][tuple(nearest)]
    filled[box] = np.where(picked[box], part, mask[box])
    return filled


def _box(picked: Bools, shape: tuple[int, ...], known: Bools) -> tuple[slice, slice, slice]:
    """The part of the grid around what was picked, wide enough to hold a known voxel."""
    for margin in (3, max(shape)):
        sides = []
        for axis, size in enumerate(shape):
            others = tuple(a for a in range(3) if a != axis)
            found = np.flatnonzero(picked.any(axis=others))
            sides.append(slice(max(0, found[0] - margin), min(size, found[-1] + margin + 1)))
        box = (sides[0], sides[1], sides[2])
        if known[box].any():
            break
    return box


def _moved(
    mask: Mask, change: MaskChange, spacing_mm_zyx: Triple, centre: Floats, target: Floats
) -> Mask:
    """Pull every output voxel from where it came from (nearest neighbour)."""
    spacing = np.asarray(spacing_mm_zyx)
    mirror = np.diag([1.0, 1.0, -1.0 if change.flip_x else 1.0])
    forward = _rotation(change.rotate_deg_zyx) @ mirror @ np.diag(change.scale_zyx)
    matrix = np.linalg.inv(forward) * spacing[None, :] / spacing[:, None]
    goal = target + np.asarray(change.shift_mm_zyx) / spacing
    if np.array_equal(matrix, np.eye(3)) and np.array_equal(goal, centre):
        return mask.astype(np.uint8)
    moved = ndimage.affine_transform(
        mask, matrix, centre - matrix @ goal, order=0, mode="constant", cval=0, prefilter=False
    )
    return np.asarray(moved, dtype=np.uint8)


def _put_inside(rest: Mask, moved: Mask, inside: Bools) -> Mask:
    """Lay the object into the rest, moved back towards the centre as far as it has to be."""
    where = np.argwhere(moved)
    values = moved[tuple(where.T)]
    way = _centre(inside) - where.mean(axis=0)
    best, fewest = where, len(where) + 1
    for step in range(_STEPS_BACK + 1):
        there = where + np.rint(way * step / _STEPS_BACK).astype(np.int64)
        outside = int((~_within(there, inside)).sum())
        if outside < fewest:
            best, fewest = there, outside
        if outside == 0:
            break
    kept = _within(best, inside)
    if not kept.any():
        raise SamplingError("the changed object lies wholly outside the body; shift it less")
    result = rest.copy()
    result[tuple(best[kept].T)] = values[kept]
    return result


def _within(points: NDArray[np.int64], inside: Bools) -> Bools:
    on_grid = ((points >= 0) & (points < np.asarray(inside.shape))).all(axis=1)
    result = np.zeros(len(points), dtype=np.bool_)
    result[on_grid] = inside[tuple(points[on_grid].T)]
    return result


def _rotation(degrees_zyx: Triple) -> Floats:
    """Right-handed rotations about z, then y, then x, on vectors written z y x."""
    result = np.eye(3)
    for axis, degrees in enumerate(degrees_zyx):
        if degrees == 0.0:
            continue
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turn = np.eye(3)
        a, b = [k for k in range(3) if k != axis]
        turn[a, a] = turn[b, b] = cos
        turn[a, b], turn[b, a] = -sin, sin
        result = turn @ result
    return result


def _centre(picked: Bools) -> Floats:
    """Centre of mass, in voxels; exact and fast from the three profiles."""
    profiles = [picked.sum(axis=axes, dtype=np.int64) for axes in ((1, 2), (0, 2), (0, 1))]
    return np.array([float((p * np.arange(len(p))).sum() / p.sum()) for p in profiles])


def _triple(values: Sequence[float] | Floats) -> Triple:
    z, y, x = (round(float(v), _DIGITS) + 0.0 for v in values)
    return (z, y, x)
