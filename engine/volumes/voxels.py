"""Stored numbers -> intensities or labels, checked alike for every file format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.read_limits import ReadLimits
from engine.volumes.volume import Array

_LABEL_TOLERANCE = 1e-3


def as_intensities(values: Array, path: Path) -> NDArray[np.float32]:
    """Stored numbers as float32, every one finite.

    Raises:
        VolumeError: NaN, infinity, or beyond float32.
    """
    with np.errstate(over="ignore"):
        array = values.astype(np.float32)
    _refuse_non_finite(array, path)
    return array


def as_labels(values: Array, path: Path) -> NDArray[np.int32]:
    """Stored numbers as labels; they are rounded first, then checked to have been integers.

    Raises:
        VolumeError: not whole numbers, negative, or beyond int32.
    """
    if values.dtype.kind == "f":
        _refuse_non_finite(values, path)
        rounded = np.rint(values)
        wrong = np.abs(values - rounded) > _LABEL_TOLERANCE
        if wrong.any():
            raise VolumeError(
                f"{path}: {int(wrong.sum())} voxels are not whole numbers (for example "
                f"{float(values[wrong][0]):.6g}); labels must be integers: give the segmentation, "
                "not an image or a probability map, regridded with nearest neighbour"
            )
        values = rounded
    low, high = values.min(), values.max()
    if low < 0:
        raise VolumeError(
            f"{path}: negative label {int(low)}; labels count from 0 (background): renumber them"
        )
    if high > np.iinfo(np.int32).max:
        raise VolumeError(f"{path}: label {int(high)} exceeds int32; renumber the labels")
    return values.astype(np.int32)


def check_size(path: Path, dims: Sequence[int], limits: ReadLimits) -> tuple[int, int, int]:
    """The three axes of a volume, if it may be so large.

    Raises:
        VolumeError: not 3D, or larger than the limits.
    """
    if len(dims) != 3:
        remedy = "stack the slices into a 3D file" if len(dims) < 3 else "write each part alone"
        raise VolumeError(f"{path}: {len(dims)}D ({by(dims)}); {remedy}")
    if min(dims) < 1:
        raise VolumeError(f"{path}: size {by(dims)} has an axis without voxels; export it again")
    if max(dims) > limits.max_dim:
        raise VolumeError(
            f"{path}: size {by(dims)} exceeds {limits.max_dim} voxels along an axis; "
            "crop or regrid the file, or raise max_dim"
        )
    if np.prod(dims, dtype=np.float64) > limits.max_voxels:
        raise VolumeError(
            f"{path}: size {by(dims)} exceeds {limits.max_voxels} voxels; "
            "crop or regrid the file, or raise max_voxels"
        )
    return (dims[0], dims[1], dims[2])


def choose_channel(path: Path, dims: Sequence[int], num: int, channel: int | None) -> int:
    """Which of a file's volumes is read.

    Args:
        path: for messages.
        dims: of the file, the channels among them.
        num: of volumes in the file.
        channel: the one asked for; None is the only one.

    Raises:
        VolumeError: several, and none asked for; or no such channel.
    """
    if channel is None and num > 1:
        raise VolumeError(
            f"{path}: {len(dims)}D ({by(dims)}); of an image, give --channel 0 to {num - 1} for "
            "one of its time points or channels, or write each to its own file; of a mask, merge "
            "its parts into one 3D label map"
        )
    if channel is not None and channel >= num:
        there = f"channels 0 to {num - 1}" if num > 1 else "one image (channel 0)"
        raise VolumeError(f"{path}: no channel {channel}, it holds {there}; correct --channel")
    return channel or 0


def by(size: Sequence[int]) -> str:
    """A size for a message: `12 x 10 x 8`."""
    return " x ".join(str(n) for n in size)


def _refuse_non_finite(array: Array, path: Path) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        kind = "NaN" if np.isnan(array[bad]).any() else "infinite (or beyond float32)"
        raise VolumeError(
            f"{path}: {int(bad.sum())} voxels are {kind}; replace them with the background value"
        )
