"""Every malformed file is refused with its own message: what is wrong, where, what to do."""

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from engine.errors import VolumeError
from engine.volumes.nifti import ReadLimits, read_image, read_labels

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SIZE = (12, 10, 8)
Edit = Callable[[np.ndarray], None]


def plain_bytes(
    array: np.ndarray | None = None,
    affine: np.ndarray | None = AFFINE,
    edit: Edit | None = None,
    kind: Any = nib.Nifti1Image,
) -> bytes:
    """A whole uncompressed file; `edit` may spoil the header's structured array."""
    if array is None:
        array = np.arange(np.prod(SIZE), dtype=np.float32).reshape(SIZE)
    raw = bytearray(kind(array, affine).to_bytes())
    if edit is not None:
        size = kind.header_class.sizeof_hdr
        header = kind.header_class(binaryblock=bytes(raw[:size]), check=False)
        edit(header.structarr)
        raw[:size] = header.structarr.tobytes()
    return bytes(raw)


def zipped(folder: Path, data: bytes, name: str = "case.nii.gz") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(data, mtime=0))
    return path


def plain(folder: Path, data: bytes, name: str = "case.nii") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def field(**values: object) -> Edit:
    def edit(header: np.ndarray) -> None:
        for key, value in values.items():
            header[key] = value

    return edit


def dims(*numbers: int) -> Edit:
    def edit(header: np.ndarray) -> None:
        header["dim"][:] = 1
        header["dim"][: len(numbers)] = numbers

    return edit


def srow(row: str, values: object) -> Edit:
    return field(sform_code=1, **{row: values})


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def flipped_bit(data: bytes) -> bytes:
    broken = bytearray(data)
    broken[-6] ^= 0x10  # inside gzip's checksum
    return bytes(broken)


def rgb() -> np.ndarray:
    return np.zeros(SIZE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


def with_value(value: float, dtype: Any = np.float32) -> np.ndarray:
    array = np.ones(SIZE, dtype)
    array[3, 4, 5] = value
    return array


DATA = plain_bytes()
NAN_ROW = [np.nan, 0, 0, 0]
PLANE_ROW = [2, 2, 0, 0]

FILES: dict[str, tuple[Any, ...]] = {
    "missing": (lambda d: d / "case.nii.gz", "no such file"),
    "folder": (lambda d: _made(d / "case.nii.gz"), "cannot be read"),
    "empty": (lambda d: plain(d, b"", "case.nii.gz"), "empty file"),
    "not gzip": (lambda d: plain(d, DATA, "case.nii.gz"), "not gzip although"),
    "gzip named nii": (lambda d: plain(d, gzip.compress(DATA)), "gzip although its name says .nii"),
    "truncated gzip": (
        lambda d: plain(d, cut(gzip.compress(DATA), 0.6), "case.nii.gz"),
        "damaged or truncated gzip",
    ),
    "truncated in the header": (
        lambda d: plain(d, gzip.compress(DATA)[:25], "case.nii.gz"),
        "damaged or truncated gzip",
    ),
    "bit flip": (
        lambda d: plain(d, flipped_bit(gzip.compress(DATA)), "case.nii.gz"),
        "damaged or truncated gzip .*CRC",
    ),
    "truncated inside": (lambda d: zipped(d, cut(DATA, 0.6)), "are there decompressed"),
    "truncated plain": (lambda d: plain(d, cut(DATA, 0.6)), "are there on disk"),
    "header only": (lambda d: zipped(d, DATA[:100]), "no NIfTI header"),
    "text": (lambda d: zipped(d, b"hello " * 200), "no NIfTI header"),
    "analyze": (lambda d: zipped(d, plain_bytes(edit=field(magic=b""))), "magic .* is not NIfTI"),
    "pair header": (
        lambda d: zipped(d, plain_bytes(edit=field(magic=b"ni1"))),
        "header of an .img/.hdr pair",
    ),
    "img": (lambda d: plain(d, DATA, "case.img"), ".img/.hdr pair; convert"),
    "hdr": (lambda d: plain(d, DATA, "case.hdr"), ".img/.hdr pair; convert"),
    "nrrd": (lambda d: plain(d, DATA, "case.nrrd"), "not a NIfTI name"),
    "dicom": (lambda d: plain(d, DATA, "case.dcm"), "not a NIfTI name"),
    "4D": (lambda d: zipped(d, plain_bytes(np.zeros((4, 4, 4, 3)))), "4D .*own file"),
    "5D": (lambda d: zipped(d, plain_bytes(np.zeros((4, 4, 4, 1, 3)))), "5D .*own file"),
    "2D": (lambda d: zipped(d, plain_bytes(np.zeros((8, 8)))), "2D .*stack the slices"),
    "zero-size dim": (
        lambda d: zipped(d, plain_bytes(edit=dims(3, 12, 0, 8))),
        "an axis without voxels",
    ),
    "negative dim": (
        lambda d: zipped(d, plain_bytes(edit=dims(3, 12, -10, 8))),
        "an axis without voxels",
    ),
    "no dims": (lambda d: zipped(d, plain_bytes(edit=dims(0))), "0 dimensions declared"),
    "too many dims": (lambda d: zipped(d, plain_bytes(edit=dims(9))), "9 dimensions declared"),
    "RGB": (lambda d: zipped(d, plain_bytes(rgb())), "data type RGB24 is not one number"),
    "complex": (
        lambda d: zipped(d, plain_bytes(np.zeros(SIZE, np.complex64))),
        "data type COMPLEX64 is not one number",
    ),
    "odd type": (lambda d: zipped(d, plain_bytes(edit=field(datatype=77))), "unknown data type"),
    "NaN affine": (
        lambda d: zipped(d, plain_bytes(edit=srow("srow_x", NAN_ROW))),
        "affine holds NaN",
    ),
    "infinite affine": (
        lambda d: zipped(d, plain_bytes(edit=srow("srow_y", [0, np.inf, 0, 0]))),
        "affine holds NaN",
    ),
    "singular affine": (
        lambda d: zipped(d, plain_bytes(edit=field(srow_x=PLANE_ROW, srow_y=PLANE_ROW))),
        "affine is singular",
    ),
    "zero affine": (
        lambda d: zipped(d, plain_bytes(edit=srow("srow_z", [0, 0, 0, 0]))),
        "affine is singular",
    ),
    "no orientation": (
        lambda d: zipped(d, plain_bytes(edit=field(sform_code=0, qform_code=0))),
        "no orientation",
    ),
    "broken quaternion": (
        lambda d: zipped(d, plain_bytes(edit=field(sform_code=0, qform_code=1, quatern_b=2.0))),
        "invalid qform",
    ),
    "micrometres": (
        lambda d: zipped(d, plain_bytes(edit=field(xyzt_units=3))),
        "not measured in mm",
    ),
    "absurd spacing": (
        lambda d: zipped(d, plain_bytes(affine=np.diag([2e4, 2e4, 2e4, 1.0]))),
        "cannot be mm",
    ),
    "infinite scale": (
        lambda d: zipped(d, plain_bytes(edit=field(scl_slope=np.inf))),
        "scale factors",
    ),
    "NaN offset": (
        lambda d: zipped(d, plain_bytes(edit=field(vox_offset=np.nan))),
        "data offset nan",
    ),
    "huge offset": (
        lambda d: zipped(d, plain_bytes(edit=field(vox_offset=1e15))),
        "data offset 99999",
    ),
    "NaN voxels": (lambda d: zipped(d, plain_bytes(with_value(np.nan))), "1 voxels are NaN"),
    "inf voxels": (lambda d: zipped(d, plain_bytes(with_value(np.inf))), "1 voxels are infinite"),
    "beyond float32": (
        lambda d: zipped(d, plain_bytes(with_value(1e300, np.float64))),
        "1 voxels are infinite",
    ),
}


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("name", FILES)
def test_file_is_refused(name: str, tmp_path: Path) -> None:
    make, message = FILES[name]
    path = make(tmp_path)
    with pytest.raises(VolumeError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert ";" in str(caught.value)  # the remedy
    with pytest.raises(VolumeError):
        read_labels(path)


CAPS = {
    "dim": (ReadLimits(max_dim=11), "exceeds 11 voxels along an axis"),
    "voxels": (ReadLimits(max_voxels=900), "exceeds 900 voxels"),
    "bytes": (ReadLimits(max_bytes=4000), "over the cap of 4000"),
}


@pytest.mark.parametrize("cap", CAPS)
def test_file_over_a_cap_is_refused_before_it_is_read(cap: str, tmp_path: Path) -> None:
    limits, message = CAPS[cap]
    with pytest.raises(VolumeError, match=message):
        read_image(zipped(tmp_path, DATA), limits)


HUGE = {
    "30000 cubed": ((3, 30000, 30000, 30000), "exceeds 4096 voxels along an axis"),
    "4000 cubed": ((3, 4000, 4000, 4000), "exceeds 536870912 voxels"),
    "more than the file can hold": ((3, 800, 800, 800), "truncated"),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_claims_of_a_small_file_cost_no_memory(name: str, tmp_path: Path) -> None:
    shape, message = HUGE[name]
    path = zipped(tmp_path, plain_bytes(edit=dims(*shape)))
    assert _peak_of(path, message) < 4 * 2**20


def test_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """Far more behind the data than the header says: refused after a bounded look."""
    path = zipped(tmp_path, DATA + bytes(64 * 2**20))
    assert path.stat().st_size < 2**20
    assert _peak_of(path, "gzip bomb") < 8 * 2**20


def test_a_few_trailing_bytes_are_padding(tmp_path: Path) -> None:
    assert read_image(zipped(tmp_path, DATA + bytes(512))).array.shape == SIZE[::-1]


def _peak_of(path: Path, message: str) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(VolumeError, match=message):
            read_image(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LABELS = {
    "fractions": (with_value(1.4), "1 voxels are not whole numbers .for example 1.4"),
    "negative": (with_value(-3), "negative label -3"),
    "negative int": (with_value(-1, np.int16), "negative label -1"),
    "NaN": (with_value(np.nan), "1 voxels are NaN"),
    "beyond int32": (with_value(2**40, np.float64), "exceeds int32"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_refused(name: str, tmp_path: Path) -> None:
    array, message = LABELS[name]
    path = zipped(tmp_path, plain_bytes(array))
    with pytest.raises(VolumeError, match=message) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)


def test_scaled_labels_are_rounded_first(tmp_path: Path) -> None:
    """A scale factor stores 1 as 0.9999999701976776: still a label."""
    slope = struct.unpack("f", struct.pack("f", 1 / 2147483647))[0]
    array = np.zeros(SIZE, np.int32)
    array[2:5, 2:5, 2:5] = 2147483583
    path = zipped(tmp_path, plain_bytes(array, edit=field(scl_slope=slope, scl_inter=0)))
    read = read_labels(path)
    assert read.array.dtype == np.int32
    assert np.unique(read.array).tolist() == [0, 1]
