"""A NIfTI header judged before a voxel is read: size, type, scale factors, place of the data.

The orientation is judged in `orientation.py`. Knows no voxels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.nifti.orientation import read_affine, repaired
from engine.volumes.read_limits import ReadLimits
from engine.volumes.voxels import by, check_size, choose_channel

HEADER_BYTES = 348
DATA_OFFSET = 352
READABLE = {
    np.dtype(kind).newbyteorder("=")
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
}
_MAX_EXTENSION_BYTES = 16 * 2**20


class Header(NamedTuple):
    """What a header says, checked.

    Attributes:
        shape_xyz: voxels.
        dtype: of the stored values, with their byte order.
        slope: stored value to intensity, `slope * value + inter`.
        inter: see `slope`.
        offset: bytes before the voxels.
        affine: 4x4 float64, voxel index (x, y, z, 1) -> RAS+ mm.
        fresh: 348-byte NIfTI-1 header of the grid, without free text.
    """

    shape_xyz: tuple[int, int, int]
    dtype: np.dtype[Any]
    slope: float
    inter: float
    offset: int
    affine: NDArray[np.float64]
    fresh: bytes
    channel: int = 0
    num_channels: int = 1


def check_suffix(path: Path) -> None:
    """Refuse names that are not NIfTI's.

    Raises:
        VolumeError: another suffix.
    """
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return
    if path.name.lower().endswith((".img", ".hdr", ".img.gz", ".hdr.gz")):
        raise VolumeError(
            f"{path}: an .img/.hdr pair; convert it to a single .nii.gz (nib.save does)"
        )
    raise VolumeError(f"{path}: not a NIfTI name; convert the file to .nii.gz (or .nii)")


def parse(path: Path, head: bytes, limits: ReadLimits, channel: int | None = None) -> Header:
    """Judge the first bytes of a file.

    Args:
        path: for messages.
        head: its first bytes.
        limits: what it may ask of memory.
        channel: which of several volumes is wanted; None is the only one.

    Raises:
        VolumeError: they are no header, or one that no volume can have.
    """
    kind, raw = _raw_header(path, head)
    dims = _dims(path, raw)
    shape = check_size(path, dims[:3], limits)
    num_channels = math.prod(dims[3:])
    chosen = choose_channel(path, dims, num_channels, channel)
    dtype = _dtype(path, kind, raw)
    with np.errstate(invalid="ignore"):
        slope, inter, offset = (float(raw[k]) for k in ("scl_slope", "scl_inter", "vox_offset"))
    if np.isinf(slope) or (np.isfinite(slope) and slope != 0 and not np.isfinite(inter)):
        raise VolumeError(
            f"{path}: scale factors {slope} and {inter} (scl_slope, scl_inter) are not finite; "
            "write the file anew"
        )
    if not np.isfinite(slope) or slope == 0:  # NIfTI: no scaling
        slope, inter = 1.0, 0.0
    lowest = 544 if kind is nib.Nifti2Header else DATA_OFFSET
    if offset == 0:
        offset = lowest
    if not lowest <= offset <= _MAX_EXTENSION_BYTES:
        raise VolumeError(
            f"{path}: data offset {offset} is not between {lowest} and {_MAX_EXTENSION_BYTES}; "
            "write the file anew"
        )
    raw = repaired(raw)
    affine = read_affine(path, raw)
    fresh = _sanitized(raw, shape)
    return Header(shape, dtype, slope, inter, int(offset), affine, fresh, chosen, num_channels)


def _raw_header(path: Path, head: bytes) -> tuple[type[Any], Any]:
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    kind: type[Any]
    if 348 in sizes and len(head) >= 348:
        kind, block, magic = nib.Nifti1Header, head[:348], head[344:347]
    elif 540 in sizes and len(head) >= 540:
        kind, block, magic = nib.Nifti2Header, head[:540], head[4:7]
    else:
        raise VolumeError(f"{path}: no NIfTI header in it; convert the file to NIfTI")
    if magic in (b"ni1", b"ni2"):
        raise VolumeError(f"{path}: header of an .img/.hdr pair; convert to a single .nii.gz")
    if magic not in (b"n+1", b"n+2"):
        raise VolumeError(f"{path}: magic {magic!r} is not NIfTI's (Analyze 7.5?); convert to .nii")
    order = "<" if int.from_bytes(block[:4], "little") == len(block) else ">"
    return kind, kind(binaryblock=block, endianness=order, check=False)


def _dims(path: Path, raw: Any) -> list[int]:
    """Sizes along x, y, z, and what comes behind; ITK puts channels on the fifth axis."""
    num_dims = int(raw["dim"][0])
    if not 1 <= num_dims <= 7:
        raise VolumeError(f"{path}: {num_dims} dimensions declared; write the file anew as 3D")
    dims = [int(d) for d in raw["dim"][1 : num_dims + 1]]
    while len(dims) > 3 and dims[-1] in (0, 1):  # an axis that is not used: ITK takes 0 as 1
        dims.pop()
    if any(d < 1 for d in dims):
        raise VolumeError(f"{path}: size {by(dims)} has an axis without voxels; export it again")
    return dims


def _dtype(path: Path, kind: type[Any], raw: Any) -> np.dtype[Any]:
    code = int(raw["datatype"])
    try:
        dtype: np.dtype[Any] = np.dtype(kind._data_type_codes.dtype[code])
    except KeyError:
        raise VolumeError(f"{path}: unknown data type code {code}; write the file anew") from None
    if dtype.newbyteorder("=") not in READABLE:
        name = kind._data_type_codes.niistring[code].removeprefix("NIFTI_TYPE_")
        raise VolumeError(
            f"{path}: data type {name} is not one number a voxel; "
            "convert it to a real type (int16, float32)"
        )
    return np.dtype(dtype.newbyteorder(raw.endianness))


def _sanitized(raw: Any, shape_xyz: tuple[int, int, int]) -> bytes:
    """Carry over grid and orientation codes, and nothing that anyone could have typed."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape_xyz)
    header.set_data_dtype(np.float32)
    header["xyzt_units"] = int(raw["xyzt_units"]) & 7
    header["pixdim"][:4] = np.nan_to_num(raw["pixdim"][:4], nan=0.0, posinf=0.0, neginf=0.0)
    orientation = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
    for key in (*orientation, "qoffset_x", "qoffset_y", "qoffset_z"):
        header[key] = raw[key]
    for key in ("srow_x", "srow_y", "srow_z"):
        header[key] = raw[key]
    return bytes(header.structarr.tobytes())
