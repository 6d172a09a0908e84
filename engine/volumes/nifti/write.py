"""Writing NIfTI: on the grid and with the orientation codes that the mask's own file had.

A sheared grid that had no qform gets the nearest one: the sform stays exact, and ITK (so nnU-Net),
which knows no shear, can read the file.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil

from engine.errors import VolumeError
from engine.volumes.geometry.same_grid import GRID_TOLERANCE, shift_mm
from engine.volumes.nifti.header import DATA_OFFSET, HEADER_BYTES, READABLE, check_suffix
from engine.volumes.nifti.orientation import shear_deg
from engine.volumes.volume import Volume

SHEAR_DEG = 1e-3  # ITK refuses an sform alone from 0.006 degrees on


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
        header: fresh header whose sform, qform and codes are kept bit for bit (a sheared sform
            alone gets a qform, too); None takes the volume's own, or makes one.

    Raises:
        VolumeError: another suffix, a type NIfTI-1 readers do not share, or a foreign header.
        OSError: it cannot be written; nothing is left of it.
    """
    check_suffix(path)
    native = _native_header(header or volume.header or fresh_header(volume))
    same_size = tuple(native.get_data_shape()) == volume.size_zyx[::-1]
    tolerance_mm = GRID_TOLERANCE * min(volume.spacing_mm_zyx)
    if not same_size or shift_mm(volume, native.get_best_affine()) > tolerance_mm:
        raise VolumeError(
            f"{path}: the given header is of another grid than {volume.source}; "
            "use that of the case the volume was made for, or none"
        )
    if volume.array.dtype.newbyteorder("=") not in READABLE:
        raise VolumeError(f"{path}: cannot store {volume.array.dtype}; convert to float32 or uint8")
    _add_qform(native)
    native.set_data_dtype(volume.array.dtype.newbyteorder("="))
    native["vox_offset"], native["magic"] = DATA_OFFSET, b"n+1"
    native["scl_slope"], native["scl_inter"] = 1.0, 0.0
    voxels = np.ascontiguousarray(volume.array, dtype=volume.array.dtype.newbyteorder("<"))
    payload = native.structarr.tobytes() + bytes(DATA_OFFSET - HEADER_BYTES) + voxels.tobytes()
    if path.name.lower().endswith(".gz"):
        payload = gzip.compress(payload, compresslevel=4, mtime=0)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _native_header(block: bytes) -> Any:
    """The header with pixdim that every reader takes: none negative, none 0."""
    header = nib.Nifti1Header(binaryblock=block, check=False)
    edges = np.linalg.norm(header.get_sform()[:3, :3], axis=0)
    pixdim = np.abs(header["pixdim"][1:4])
    usable = edges if header["sform_code"] > 0 else np.ones(3)
    header["pixdim"][1:4] = np.where(pixdim > 0, pixdim, usable)
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1
    return header


def _add_qform(header: Any) -> None:
    """The nearest qform beside a sheared sform that stands alone."""
    sform = header.get_sform()
    if header["sform_code"] > 0 and header["qform_code"] <= 0 and shear_deg(sform) > SHEAR_DEG:
        header.set_qform(sform, code=int(header["sform_code"]), strip_shears=True)


def remove_parts(folder: Path) -> None:
    """Remove what calls of `write_nifti` that were killed left in a folder."""
    for part in folder.glob(".*.part"):
        process = part.name.removesuffix(".part").rpartition(".")[2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            part.unlink(missing_ok=True)
