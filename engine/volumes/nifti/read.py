"""Reading NIfTI: a file is judged by its header before a voxel of it is read.

NIfTI stores x fastest, so the file's bytes *are* a C-ordered `z y x` array: that is the one place
where the axis order turns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.errors import VolumeError
from engine.volumes.bounded import ReadLimits, open_bounded
from engine.volumes.nifti.header import Header, check_suffix, parse
from engine.volumes.volume import Array, Volume

_LABEL_TOLERANCE = 1e-3


def read_image(path: Path, limits: ReadLimits | None = None) -> Volume:
    """Read intensities, scale factors applied.

    Returns:
        `z y x` float32, every voxel finite.

    Raises:
        VolumeError: the file is malformed; names it, what is wrong, and the remedy.
    """
    header, raw = _read(path, limits or ReadLimits())
    with np.errstate(over="ignore"):
        array = _scaled(raw, header).astype(np.float32)
    _refuse_non_finite(array, path)
    return Volume(array, header.affine, str(path), header.fresh)


def read_labels(path: Path, limits: ReadLimits | None = None) -> Volume:
    """Read a label map; values are rounded first, then checked to have been integers.

    Returns:
        `z y x` int32, raw labels as stored, none negative.

    Raises:
        VolumeError: the file is malformed, or its values are no labels.
    """
    header, raw = _read(path, limits or ReadLimits())
    values = _scaled(raw, header)
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
    return Volume(values.astype(np.int32), header.affine, str(path), header.fresh)


def _read(path: Path, limits: ReadLimits) -> tuple[Header, Array]:
    check_suffix(path)
    with open_bounded(path) as stream:
        header = parse(path, stream.head, limits)
        count = int(np.prod(header.shape_xyz, dtype=np.int64))
        data = stream.read_whole(header.offset + count * header.dtype.itemsize, limits.max_bytes)
    raw = np.frombuffer(data, header.dtype, count, header.offset)
    return header, raw.reshape(header.shape_xyz[::-1])


def _scaled(raw: Array, header: Header) -> Array:
    if header.slope == 1.0 and header.inter == 0.0:
        return raw
    return raw.astype(np.float64) * header.slope + header.inter


def _refuse_non_finite(array: Array, path: Path) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        kind = "NaN" if np.isnan(array[bad]).any() else "infinite (or beyond float32)"
        raise VolumeError(
            f"{path}: {int(bad.sum())} voxels are {kind}; replace them with the background value"
        )
