"""NIfTI files in and out: first and last step of the data path, and nibabel's only importer.

A file is judged by its header before a voxel of it is read. NIfTI stores x fastest, so the file's
bytes *are* a C-ordered `z y x` array: that is the one place where the axis order turns. Knows
nothing of cases, classes or models.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.bounded import ReadLimits, open_bounded
from engine.volumes.volume import Array, Volume

_HEADER_BYTES = 348
_DATA_OFFSET = 352
_MAX_EXTENSION_BYTES = 16 * 2**20
_LABEL_TOLERANCE = 1e-3
_GRID_TOLERANCE = 0.05  # of the smallest voxel edge, measured at the grid's corners
_READABLE = {
    np.dtype(kind).newbyteorder("=")
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
}


class _Header(NamedTuple):
    shape_xyz: tuple[int, int, int]
    dtype: np.dtype[Any]
    slope: float
    inter: float
    offset: int
    affine: NDArray[np.float64]
    fresh: bytes


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


def check_same_grid(image: Volume, mask: Volume) -> None:
    """Refuse an image and a mask whose voxels are not the same places.

    Raises:
        VolumeError: other size, or the affines move a corner by over 5 % of a voxel edge.
    """
    if image.size_zyx != mask.size_zyx:
        raise VolumeError(
            f"{mask.source}: mask of {_by(mask.size_zyx)} voxels, but {image.source} has "
            f"{_by(image.size_zyx)} (z y x); regrid the mask onto it (nearest neighbour)"
        )
    shift_mm = _shift_mm(image, mask.affine)
    if shift_mm > _GRID_TOLERANCE * min(mask.spacing_mm_zyx):
        raise VolumeError(
            f"{mask.source}: the affine differs from that of {image.source} by up to "
            f"{shift_mm:.3g} mm; give both files the same sform/qform, or regrid the mask"
        )


def fresh_header(volume: Volume) -> bytes:
    """A new NIfTI-1 header for the volume's grid (sform and qform "scanner"), without free text."""
    header = nib.Nifti1Header()
    header.set_data_shape(volume.size_zyx[::-1])
    header.set_data_dtype(np.float32)
    header.set_xyzt_units("mm")
    header.set_sform(volume.affine, code=1)
    header.set_qform(volume.affine, code=1, strip_shears=True)
    return bytes(header.structarr.tobytes())


def write_nifti(path: Path, volume: Volume, header: bytes | None = None) -> None:
    """Write `path` (.nii or .nii.gz) on the volume's grid, through a rename: whole or not at all.

    Args:
        path: where to.
        volume: float32 or an integer type, `z y x`; its values are stored unscaled.
        header: fresh header whose sform, qform and codes are kept bit for bit; None takes the
            volume's own, or makes one.

    Raises:
        VolumeError: another suffix, a type NIfTI-1 readers do not share, or a foreign header.
    """
    _check_suffix(path)
    native = nib.Nifti1Header(binaryblock=header or volume.header or fresh_header(volume))
    same_size = tuple(native.get_data_shape()) == volume.size_zyx[::-1]
    tolerance_mm = _GRID_TOLERANCE * min(volume.spacing_mm_zyx)
    if not same_size or _shift_mm(volume, native.get_best_affine()) > tolerance_mm:
        raise VolumeError(
            f"{path}: the given header is of another grid than {volume.source}; "
            "use that of the case the volume was made for, or none"
        )
    if volume.array.dtype.newbyteorder("=") not in _READABLE:
        raise VolumeError(f"{path}: cannot store {volume.array.dtype}; convert to float32 or uint8")
    native.set_data_dtype(volume.array.dtype.newbyteorder("="))
    native["vox_offset"], native["magic"] = _DATA_OFFSET, b"n+1"
    native["scl_slope"], native["scl_inter"] = 1.0, 0.0
    voxels = np.ascontiguousarray(volume.array, dtype=volume.array.dtype.newbyteorder("<"))
    payload = native.structarr.tobytes() + bytes(_DATA_OFFSET - _HEADER_BYTES) + voxels.tobytes()
    if path.name.endswith(".gz"):
        payload = gzip.compress(payload, compresslevel=4, mtime=0)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _shift_mm(volume: Volume, affine: NDArray[np.float64]) -> float:
    """How far another affine moves the corners of the volume's grid, at most."""
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(volume.size_zyx[::-1]) - 1)
    points = np.c_[corners, np.ones(8)].T
    return float(np.linalg.norm(((volume.affine - affine) @ points)[:3], axis=0).max())


def _read(path: Path, limits: ReadLimits) -> tuple[_Header, Array]:
    _check_suffix(path)
    with open_bounded(path) as stream:
        header = _parse(path, stream.head, limits)
        count = int(np.prod(header.shape_xyz, dtype=np.int64))
        data = stream.read_whole(header.offset + count * header.dtype.itemsize, limits.max_bytes)
    raw = np.frombuffer(data, header.dtype, count, header.offset)
    return header, raw.reshape(header.shape_xyz[::-1])


def _check_suffix(path: Path) -> None:
    if path.name.endswith((".nii", ".nii.gz")):
        return
    if path.name.endswith((".img", ".hdr", ".img.gz", ".hdr.gz")):
        raise VolumeError(
            f"{path}: an .img/.hdr pair; convert it to a single .nii.gz (nib.save does)"
        )
    raise VolumeError(f"{path}: not a NIfTI name; convert the file to .nii.gz (or .nii)")


def _parse(path: Path, head: bytes, limits: ReadLimits) -> _Header:
    kind, raw = _raw_header(path, head)
    shape = _shape(path, raw, limits)
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
    lowest = 544 if kind is nib.Nifti2Header else _DATA_OFFSET
    if offset == 0:
        offset = lowest
    if not lowest <= offset <= _MAX_EXTENSION_BYTES:
        raise VolumeError(
            f"{path}: data offset {offset} is not between {lowest} and {_MAX_EXTENSION_BYTES}; "
            "write the file anew"
        )
    affine = _affine(path, raw)
    return _Header(shape, dtype, slope, inter, int(offset), affine, _sanitized(raw, shape))


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


def _shape(path: Path, raw: Any, limits: ReadLimits) -> tuple[int, int, int]:
    num_dims = int(raw["dim"][0])
    if not 1 <= num_dims <= 7:
        raise VolumeError(f"{path}: {num_dims} dimensions declared; write the file anew as 3D")
    dims = [int(d) for d in raw["dim"][1 : num_dims + 1]]
    if any(d < 1 for d in dims):
        raise VolumeError(f"{path}: size {_by(dims)} has an axis without voxels; export it again")
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    if len(dims) > 3:
        raise VolumeError(
            f"{path}: {len(dims)}D ({_by(dims)}); write each time point or channel to its own file"
        )
    if len(dims) < 3:
        raise VolumeError(f"{path}: {len(dims)}D ({_by(dims)}); stack the slices into a 3D file")
    if max(dims) > limits.max_dim:
        raise VolumeError(
            f"{path}: size {_by(dims)} exceeds {limits.max_dim} voxels along an axis; "
            "crop or regrid the file, or raise max_dim"
        )
    if np.prod(dims, dtype=np.float64) > limits.max_voxels:
        raise VolumeError(
            f"{path}: size {_by(dims)} exceeds {limits.max_voxels} voxels; "
            "crop or regrid the file, or raise max_voxels"
        )
    return (dims[0], dims[1], dims[2])


def _dtype(path: Path, kind: type[Any], raw: Any) -> np.dtype[Any]:
    code = int(raw["datatype"])
    try:
        dtype: np.dtype[Any] = np.dtype(kind._data_type_codes.dtype[code])
    except KeyError:
        raise VolumeError(f"{path}: unknown data type code {code}; write the file anew") from None
    if dtype.newbyteorder("=") not in _READABLE:
        name = kind._data_type_codes.niistring[code].removeprefix("NIFTI_TYPE_")
        raise VolumeError(
            f"{path}: data type {name} is not one number a voxel; "
            "convert it to a real type (int16, float32)"
        )
    return np.dtype(dtype.newbyteorder(raw.endianness))


def _affine(path: Path, raw: Any) -> NDArray[np.float64]:
    if raw["sform_code"] <= 0 and raw["qform_code"] <= 0:
        raise VolumeError(
            f"{path}: no orientation (sform and qform codes are 0), left and right are unknown; "
            "set the sform from the original scan"
        )
    units = int(raw["xyzt_units"]) & 7
    if units not in (0, 2):
        raise VolumeError(
            f"{path}: space is not measured in mm (xyzt_units {units}); rescale to mm"
        )
    try:
        affine = np.asarray(raw.get_best_affine(), dtype=np.float64)
    except (ValueError, HeaderDataError) as error:
        raise VolumeError(f"{path}: invalid qform ({error}); set a valid sform or qform") from None
    if not np.isfinite(affine).all():
        raise VolumeError(f"{path}: the affine holds NaN or infinity; set a valid sform or qform")
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    if edges.min() <= 0 or volume < 1e-4 * np.prod(edges):
        raise VolumeError(
            f"{path}: the affine is singular (voxel edges {_mm(edges)}, volume {volume:.3g}); "
            "set a valid sform or qform"
        )
    if edges.min() < 1e-3 or edges.max() > 1e3:
        raise VolumeError(f"{path}: voxel edges of {_mm(edges)} cannot be mm; correct the affine")
    return affine


def _sanitized(raw: Any, shape_xyz: tuple[int, int, int]) -> bytes:
    """Carry over grid and orientation codes, and nothing that anyone could have typed."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape_xyz)
    header.set_data_dtype(np.float32)
    header["xyzt_units"] = int(raw["xyzt_units"]) & 7
    header["pixdim"][:4] = np.nan_to_num(raw["pixdim"][:4], nan=1.0, posinf=1.0, neginf=1.0)
    orientation = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
    for key in (*orientation, "qoffset_x", "qoffset_y", "qoffset_z"):
        header[key] = raw[key]
    for key in ("srow_x", "srow_y", "srow_z"):
        header[key] = raw[key]
    return bytes(header.structarr.tobytes())


def _scaled(raw: Array, header: _Header) -> Array:
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


def _by(size: tuple[int, ...] | list[int]) -> str:
    return " x ".join(str(n) for n in size)


def _mm(edges: NDArray[np.float64]) -> str:
    return " x ".join(f"{e:.3g}" for e in edges) + " mm"
