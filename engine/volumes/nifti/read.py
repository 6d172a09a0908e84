"""Reading NIfTI: a file is judged by its header before a voxel of it is read.

NIfTI stores x fastest, so the file's bytes *are* a C-ordered `z y x` array: that is the one place
where the axis order turns.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from engine.volumes.nifti.header import Header, check_suffix, parse
from engine.volumes.read_limits import ReadLimits, open_limited
from engine.volumes.volume import Array, Volume
from engine.volumes.voxels import as_intensities, as_labels


def read_image(path: Path, limits: ReadLimits | None = None, channel: int | None = None) -> Volume:
    """Read intensities, scale factors applied.

    Args:
        path: .nii or .nii.gz.
        limits: what the file may ask of memory.
        channel: of a 4D file (the Decathlon's modalities); None takes the only one.

    Returns:
        `z y x` float32, every voxel finite.

    Raises:
        VolumeError: the file is malformed; names it, what is wrong, and the remedy.
    """
    header, raw = _read(path, limits or ReadLimits(), channel)
    array = as_intensities(_scaled(raw, header), path)
    return Volume(array, header.affine, str(path), header.fresh)


def read_labels(path: Path, limits: ReadLimits | None = None) -> Volume:
    """Read a label map; values are rounded first, then checked to have been integers.

    Returns:
        `z y x` int32, raw labels as stored, none negative.

    Raises:
        VolumeError: the file is malformed, or its values are no labels.
    """
    header, raw = _read(path, limits or ReadLimits(), None)
    labels = as_labels(_scaled(raw, header), path)
    return Volume(labels, header.affine, str(path), header.fresh)


def _read(path: Path, limits: ReadLimits, channel: int | None) -> tuple[Header, Array]:
    check_suffix(path)
    with open_limited(path) as stream:
        header = parse(path, stream.head, limits, channel)
        count = math.prod(header.shape_xyz)
        num_bytes = count * header.dtype.itemsize
        total = header.offset + header.num_channels * num_bytes
        data = stream.read_whole(total, limits.max_bytes)
    raw = np.frombuffer(data, header.dtype, count, header.offset + header.channel * num_bytes)
    return header, raw.reshape(header.shape_xyz[::-1])


def _scaled(raw: Array, header: Header) -> Array:
    if header.slope == 1.0 and header.inter == 0.0:
        return raw
    return raw.astype(np.float64) * header.slope + header.inter
