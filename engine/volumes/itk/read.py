"""MetaImage and NRRD by SimpleITK, an optional extra; checked as NIfTI is.

SimpleITK's only importer. ITK's world is LPS, ours RAS: x and y change their sign once, here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.geometry.affines import check_affine
from engine.volumes.itk.header import read_header
from engine.volumes.itk.stream import check_stream
from engine.volumes.read_limits import ReadLimits
from engine.volumes.volume import Array, Volume
from engine.volumes.voxels import as_intensities, as_labels, check_size, choose_channel

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_BYTES = {"8-bit": 1, "16-bit": 2, "32-bit": 4, "64-bit": 8}


def read_image(path: Path, limits: ReadLimits | None = None, channel: int | None = None) -> Volume:
    """Read intensities.

    Args:
        path: .mha, .mhd, .nrrd or .nhdr.
        limits: what the file may ask of memory.
        channel: of a file that holds several volumes.

    Returns:
        `z y x` float32, every voxel finite.

    Raises:
        VolumeError: the file is malformed, or SimpleITK is not installed; names the remedy.
    """
    values, affine = _read(path, limits or ReadLimits(), channel)
    return Volume(as_intensities(values, path), affine, str(path))


def read_labels(path: Path, limits: ReadLimits | None = None) -> Volume:
    """Read a label map.

    Returns:
        `z y x` int32, raw labels as stored, none negative.

    Raises:
        VolumeError: see `read_image`; or its values are no labels.
    """
    values, affine = _read(path, limits or ReadLimits(), None)
    return Volume(as_labels(values, path), affine, str(path))


def source_files(path: Path) -> tuple[Path, ...]:
    """The file, and the one beside it that holds its voxels.

    Raises:
        VolumeError: the header cannot be read.
    """
    return tuple(dict.fromkeys((path, read_header(path).data)))


def _read(path: Path, limits: ReadLimits, channel: int | None) -> tuple[Array, NDArray[np.float64]]:
    sitk = _import(path)
    header = read_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    meta = path.name.lower().endswith((".mha", ".mhd"))
    reader.SetImageIO("MetaImageIO" if meta else "NrrdImageIO")  # it knows no capital endings
    try:
        reader.ReadImageInformation()
        wanted, num = _check(path, reader, limits, channel)
        check_stream(header, _num_bytes(path, reader, limits))
        array: Array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise VolumeError(
            f"{path}: SimpleITK cannot read it ({reason}); write it anew as .nii.gz"
        ) from None
    if num > 1:
        array = array[..., wanted] if reader.GetNumberOfComponents() > 1 else array[wanted]
    affine = _affine(reader)
    check_affine(path, affine, "write the file anew with a valid orientation")
    return np.ascontiguousarray(array.reshape(array.shape[-3:])), affine


def _import(path: Path) -> Any:
    try:
        import SimpleITK
    except ImportError:
        raise VolumeError(
            f"{path}: {path.suffix.lower()} is read with SimpleITK, which is not installed; "
            "pip install 'gem3d-engine[itk]', or convert the file to .nii.gz"
        ) from None
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _check(path: Path, reader: Any, limits: ReadLimits, channel: int | None) -> tuple[int, int]:
    """Judge the declared size before a voxel is read; returns the channel, and their number."""
    size, components = [int(n) for n in reader.GetSize()], int(reader.GetNumberOfComponents())
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    check_size(path, size[:3], limits)
    if len(size) > 4 or (len(size) == 4 and components > 1):
        raise VolumeError(f"{path}: {len(size)}D with {components} numbers a voxel; split the file")
    num = components * (size[3] if len(size) == 4 else 1)
    dims = size if components == 1 else [*size, components]
    return choose_channel(path, dims, num, channel), num


def _num_bytes(path: Path, reader: Any, limits: ReadLimits) -> int:
    """Decompressed size of all voxels of the file."""
    import SimpleITK

    kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
    each = 0 if "complex" in kind else next((n for w, n in _BYTES.items() if w in kind), 0)
    count = int(np.prod(reader.GetSize(), dtype=np.int64)) * int(reader.GetNumberOfComponents())
    if not each:
        raise VolumeError(f"{path}: {kind}; convert it to a real type (int16, float32)")
    if count * each > limits.max_bytes:
        raise VolumeError(
            f"{path}: {count * each} bytes decompressed, over the cap of {limits.max_bytes}; "
            "crop or split the file, or raise max_bytes"
        )
    return count * each


def _affine(reader: Any) -> NDArray[np.float64]:
    """Voxel index (x, y, z, 1) -> RAS+ mm."""
    num_dims = int(reader.GetDimension())
    direction = np.array(reader.GetDirection(), dtype=np.float64).reshape(num_dims, num_dims)
    affine = np.eye(4)
    affine[:3, :3] = direction[:3, :3] @ np.diag(reader.GetSpacing()[:3])
    affine[:3, 3] = reader.GetOrigin()[:3]
    ras: NDArray[np.float64] = _LPS_TO_RAS @ affine
    return ras
