"""Grids along the path: closest RAS+ axes, and regridding axis by axis there and back.

A prepared grid differs from the native one by an exact permutation and flips, and by one scale and
offset an axis: nothing is ever rotated, so an oblique scan stays on its own planes. Pure functions
on arrays; knows no file and no class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from engine.volumes.volume import Array

_TIE = 1e-6  # shares that differ by less are equal


@dataclass(frozen=True)
class Orientation:
    """How native axes become the closest RAS+ ones (all `x y z`).

    Attributes:
        axes: native axis that becomes canonical axis 0, 1, 2.
        flips: whether that axis runs backwards.
        size_xyz: native voxels.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    size_xyz: tuple[int, int, int]

    @classmethod
    def closest(cls, affine: NDArray[np.float64], size_zyx: tuple[int, int, int]) -> Orientation:
        """Closest RAS+ axes of an affine (polar decomposition, then the best assignment).

        A scan of 5 axial slices, 4 rows and 3 columns, stored towards left and back (LPS): x and y
        run backwards, and the first canonical voxel is the last of both.

        >>> lps = np.diag([-2.0, -2.0, 5.0, 1.0])
        >>> orientation = Orientation.closest(lps, (5, 4, 3))
        >>> orientation.axes, orientation.flips
        ((0, 1, 2), (True, True, False))
        >>> orientation.canonical_affine(lps).diagonal().tolist()
        [2.0, 2.0, 5.0, 1.0]
        >>> orientation.canonical_affine(lps)[:3, 3].tolist()
        [-4.0, -6.0, 0.0]
        """
        left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
        rotation = left @ right  # row: world axis, column: native axis
        _, columns = linear_sum_assignment(-np.abs(rotation))
        axes = (int(columns[0]), int(columns[1]), int(columns[2]))
        flips = (
            bool(rotation[0, axes[0]] < 0),
            bool(rotation[1, axes[1]] < 0),
            bool(rotation[2, axes[2]] < 0),
        )
        return cls(axes, flips, (size_zyx[2], size_zyx[1], size_zyx[0]))

    def to_canonical(self, array: Array) -> Array:
        """Native `z y x` -> canonical `z y x` (a view)."""
        xyz = array.transpose(2, 1, 0).transpose(self.axes)
        return self._flip(xyz).transpose(2, 1, 0)

    def to_native(self, array: Array) -> Array:
        """Canonical `z y x` -> native `z y x` (C-contiguous)."""
        xyz = self._flip(array.transpose(2, 1, 0))
        inverse = np.argsort(self.axes)
        return np.ascontiguousarray(xyz.transpose(*inverse).transpose(2, 1, 0))

    def canonical_affine(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """Affine of the canonical grid: the same places, voxel index in canonical order."""
        step = np.zeros((4, 4))
        step[3, 3] = 1.0
        for new, (old, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            step[old, new] = -1.0 if flip else 1.0
            step[old, 3] = self.size_xyz[old] - 1 if flip else 0
        return np.asarray(affine @ step)

    def _flip(self, xyz: Array) -> Array:
        flipped = tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return xyz[flipped]


@dataclass(frozen=True)
class AxisMap:
    """One axis: prepared index j lies at canonical index `origin + j * ratio`.

    Attributes:
        origin: canonical index of prepared voxel 0; whole when `ratio` is 1.
        ratio: prepared over canonical voxel edge; exactly 1 means no interpolation.
        size: prepared voxels.
        canonical_size: canonical voxels.
    """

    origin: float
    ratio: float
    size: int
    canonical_size: int

    def to_prepared(self) -> NDArray[np.float64]:
        """Weights `prepared x canonical`; a row of zeros where the scan does not reach.

        Three prepared voxels, one canonical voxel apart, that begin one before the scan:

        >>> AxisMap(origin=-1.0, ratio=1.0, size=3, canonical_size=2).to_prepared()
        array([[0., 0.],
               [1., 0.],
               [0., 1.]])
        """
        centres = self.origin + self.ratio * np.arange(self.size, dtype=np.float64)
        return _weights(centres, self.ratio, self.canonical_size)

    def to_canonical(self) -> NDArray[np.float64]:
        """Weights `canonical x prepared`; a row of zeros outside the prepared crop."""
        centres = (np.arange(self.canonical_size, dtype=np.float64) - self.origin) / self.ratio
        return _weights(centres, 1.0 / self.ratio, self.size)


def prepared_affine(
    canonical: NDArray[np.float64], axes_zyx: tuple[AxisMap, AxisMap, AxisMap]
) -> NDArray[np.float64]:
    """Affine (x y z) of the prepared grid laid over a canonical one."""
    step = np.eye(4)
    for axis, mapped in enumerate(reversed(axes_zyx)):
        step[axis, axis], step[axis, 3] = mapped.ratio, mapped.origin
    return np.asarray(canonical @ step)


def regrid(array: Array, weights_zyx: list[NDArray[np.float64]], outside: float) -> Array:
    """Interpolate `z y x` float32 axis by axis; places that no voxel reaches become `outside`.

    With weights of 0 and 1 every value comes through bit for bit.
    """
    result = np.asarray(array, dtype=np.float32)
    for axis, weights in enumerate(weights_zyx):
        result = _along(result, weights, axis)
    for axis, weights in enumerate(weights_zyx):
        np.moveaxis(result, axis, 0)[~weights.any(axis=1)] = outside
    return result


def regrid_classes(mask: Array, weights_zyx: list[NDArray[np.float64]]) -> NDArray[np.uint8]:
    """Interpolate each class of a `z y x` mask and keep the strongest (ties: the lower class)."""
    best = _share(mask == 0, weights_zyx)
    result = np.zeros(best.shape, np.uint8)
    boxes: Sequence[tuple[slice, ...] | None] = ndimage.find_objects(mask)
    for label, box in enumerate(boxes, start=1):
        if box is None:
            continue
        inside, to = _around(box, weights_zyx)  # elsewhere its share is 0
        share = _share(mask[box] == label, inside)
        stronger = share > best[to] + _TIE
        result[to][stronger] = label
        np.maximum(best[to], share, out=best[to])
    return result


def _around(
    box: tuple[slice, ...], weights_zyx: list[NDArray[np.float64]]
) -> tuple[list[NDArray[np.float64]], tuple[slice, ...]]:
    """The weights that act on a box, and the part of the result that it reaches."""
    inside, to = [], []
    for part, weights in zip(box, weights_zyx, strict=True):
        reached = np.flatnonzero(weights[:, part].any(axis=1))
        rows = slice(reached[0], reached[-1] + 1) if len(reached) else slice(0, 0)
        inside.append(weights[rows, part])
        to.append(rows)
    return inside, tuple(to)


def _share(inside: NDArray[np.bool_], weights_zyx: list[NDArray[np.float64]]) -> Array:
    """Share of a class in every voxel of the result; few weights of a row are not 0."""
    share = inside.astype(np.float32)
    for axis, weights in enumerate(weights_zyx):
        taps = np.argsort(weights == 0.0, axis=1, kind="stable")
        taps = taps[:, : max(1, int(np.count_nonzero(weights, axis=1).max(initial=0)))]
        factors = np.take_along_axis(weights, taps, axis=1).astype(np.float32)
        shape = [-1 if other == axis else 1 for other in range(share.ndim)]
        mixed = share.take(taps[:, 0], axis) * factors[:, 0].reshape(shape)
        for tap in range(1, taps.shape[1]):
            mixed += share.take(taps[:, tap], axis) * factors[:, tap].reshape(shape)
        share = mixed
    return share


def _along(array: Array, weights: NDArray[np.float64], axis: int) -> Array:
    rows = np.argmax(weights, axis=1)
    moved = np.moveaxis(array, axis, 0)
    if ((weights == 0.0) | (weights == 1.0)).all():  # a selection: no arithmetic
        picked = moved[rows]
        picked[~weights.any(axis=1)] = 0
        return np.moveaxis(picked, 0, axis)
    mixed = np.tensordot(weights.astype(np.float32), moved.astype(np.float32), axes=(1, 0))
    return np.moveaxis(mixed, 0, axis)


def _weights(centres: NDArray[np.float64], ratio: float, size: int) -> NDArray[np.float64]:
    """Linear interpolation, averaged over a box where samples get coarser (no aliasing).

    A constant stays constant everywhere and a ramp a ramp away from the ends, for any ratio. The
    box is sqrt(ratio^2 - 1) voxels wide, so that it vanishes at ratio 1.
    """
    offset = np.clip(centres, 0, size - 1)[:, None] - np.arange(size, dtype=np.float64)[None, :]
    if ratio > 1.0:
        half = np.sqrt(ratio**2 - 1.0) / 2
        weights = _hat_integral(offset + half) - _hat_integral(offset - half)
        weights[weights < 1e-12] = 0.0
    else:
        weights = np.maximum(0.0, 1.0 - np.abs(offset))
    weights /= weights.sum(axis=1, keepdims=True)
    weights[(centres < -0.5 - 1e-9) | (centres > size - 0.5 + 1e-9)] = 0.0
    return weights


def _hat_integral(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of the hat function max(0, 1 - |s|) from minus infinity to t."""
    t = np.clip(t, -1.0, 1.0)
    return np.where(t < 0, (t + 1) ** 2 / 2, 1 - (1 - t) ** 2 / 2)
