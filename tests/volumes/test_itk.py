"""MetaImage and NRRD: the same voxels at the same places as NIfTI, or a refusal by name."""

import gzip
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import VolumeError
from engine.volumes.itk.header import read_header
from engine.volumes.itk.stream import check_stream
from engine.volumes.nifti import write_nifti
from engine.volumes.read_limits import ReadLimits
from engine.volumes.reading import read_image, read_labels, source_files
from engine.volumes.volume import Volume

AFFINE = np.array([[-1.5, 0, 0, 20], [0, -2, 0, 30], [0, 0, 4, -50], [0, 0, 0, 1.0]])
TURN = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
OBLIQUE = TURN @ AFFINE
SIZE_ZYX = (3, 4, 5)


@pytest.fixture
def sitk() -> Any:
    return pytest.importorskip("SimpleITK", reason="SimpleITK (the extra itk) is not installed")


@pytest.fixture(params=[".mha", ".mhd", ".nrrd", ".nhdr", ".MHA"])
def ending(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def voxels(dtype: str = "int16") -> np.ndarray[Any, Any]:
    return np.arange(np.prod(SIZE_ZYX)).reshape(SIZE_ZYX).astype(dtype)


def converted(sitk: Any, nifti: Path, path: Path, zipped: bool = False) -> Path:
    """What a user's own conversion by SimpleITK writes."""
    written = path.with_name(path.name.lower())
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(written), zipped)
    return written.rename(path)


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["LPS", "oblique"])
@pytest.mark.parametrize("zipped", [False, True])
def test_lies_where_the_nifti_lay(
    sitk: Any, ending: str, zipped: bool, affine: Any, tmp_path: Path
) -> None:
    write_nifti(tmp_path / "a.nii.gz", Volume(voxels(), affine, "a"))
    path = converted(sitk, tmp_path / "a.nii.gz", tmp_path / f"a{ending}", zipped)
    found = read_image(path)
    np.testing.assert_array_equal(found.array, voxels())
    np.testing.assert_allclose(found.affine, affine, atol=1e-4)
    labels = read_labels(path)
    assert found.array.dtype == np.float32
    assert labels.array.dtype == np.int32
    np.testing.assert_array_equal(labels.array, voxels())
    names = {file.suffix for file in source_files(path)}
    assert len(names) == (2 if ending in (".mhd", ".nhdr") else 1)


@pytest.mark.parametrize("kind", ["4D", "vector"])
def test_channels(sitk: Any, kind: str, tmp_path: Path) -> None:
    both = [sitk.GetImageFromArray(voxels() + 100 * n) for n in range(2)]
    image = sitk.JoinSeries(both) if kind == "4D" else sitk.Compose(both)
    path = tmp_path / ("a.mha" if kind == "4D" else "a.nrrd")
    sitk.WriteImage(image, str(path))
    np.testing.assert_array_equal(read_image(path, channel=1).array, voxels() + 100)
    with pytest.raises(VolumeError, match=r"give --channel 0 to 1 for one of its time points"):
        read_image(path)
    with pytest.raises(VolumeError, match=r"no channel 2, it holds channels 0 to 1"):
        read_image(path, channel=2)


def test_values_are_judged_as_niftis_are(sitk: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    cases: list[tuple[float, Callable[[Path], Volume], str]] = [
        (np.nan, read_image, "1 voxels are NaN"),
        (0.5, read_labels, "1 voxels are not whole numbers"),
        (-2.0, read_labels, "negative label -2"),
    ]
    for value, reader, output in cases:
        array = voxels("float32")
        array[0, 0, 0] = value
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        with pytest.raises(VolumeError, match=output):
            reader(path)
    with pytest.raises(VolumeError, match="exceeds 4 voxels along an axis"):
        read_image(path, ReadLimits(max_dim=4))
    sitk.WriteImage(sitk.GetImageFromArray(voxels()[0]), str(path))
    with pytest.raises(VolumeError, match=r"2D \(5 x 4\); stack the slices"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.mha", "a.NRRD", "a.seg.nrrd"])
def test_without_simpleitk_the_file_is_named_with_the_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    for reader in (read_image, read_labels):
        with pytest.raises(VolumeError, match=rf"{name}: .* pip install 'gem3d-engine\[itk\]'"):
            reader(tmp_path / name)


HEADER = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 1 2 3\nDimSize = 5 4 3\n"
)
PIXELS = voxels().tobytes()


def meta(path: Path, data: bytes, zipped: bool = False) -> Path:
    more = b"CompressedData = %s\nElementDataFile = LOCAL\n" % str(zipped).encode()
    path.write_bytes(HEADER + more + data)
    return path


def nrrd(path: Path, data: bytes, encoding: bytes) -> Path:
    space = b"space: RAS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
    path.write_bytes(b"NRRD0004\n" + space + b"encoding: " + encoding + b"\n\n" + data)
    return path


@pytest.mark.parametrize("case", ["mha raw", "mha zlib", "nrrd raw", "nrrd gzip"])
def test_stored_bytes_are_counted_and_their_checksums_checked(case: str, tmp_path: Path) -> None:
    """SimpleITK 2.5 reads what follows a wrong checksum, and says nothing."""
    kind, packing = case.split()
    packs: dict[str, Callable[[bytes], bytes]] = {
        "raw": bytes,
        "zlib": zlib.compress,
        "gzip": gzip.compress,
    }
    pack = packs[packing]

    def check(data: bytes) -> None:
        if kind == "mha":
            path = meta(tmp_path / "a.mha", data, packing == "zlib")
        else:
            path = nrrd(tmp_path / "a.nrrd", data, packing.encode())
        check_stream(read_header(path), len(PIXELS))

    whole = pack(PIXELS)
    check(whole)
    with pytest.raises(VolumeError, match=r"a\.(mha|nrrd): .*copy or download the file again"):
        check(whole[: len(whole) * 2 // 3])
    with pytest.raises(VolumeError, match="more are there"):
        check(pack(PIXELS + b"12"))
    if packing != "raw":
        flipped = bytearray(whole)
        flipped[-6] ^= 0x10
        with pytest.raises(VolumeError, match="damaged or truncated"):
            check(bytes(flipped))


REFUSED = {
    "no header": ("a.mha", b"\x00" * 100, "no MetaImage header"),
    "no spacing": (
        "a.mha",
        HEADER.replace(b"ElementSpacing = 1 2 3\n", b"") + b"ElementDataFile = LOCAL\n",
        "no ElementSpacing, the size of a voxel is unknown",
    ),
    "no space": ("a.nrrd", b"NRRD0004\nsizes: 5 4 3\nspacings: 1 1 1\n\n", "left and right are un"),
    "missing voxels": ("a.mhd", HEADER + b"ElementDataFile = a.raw\n", "a.raw, are missing"),
    "voxels elsewhere": (
        "a.mhd",
        HEADER + b"ElementDataFile = ../b.raw\n",
        r"lie in another folder \(../b.raw\)",
    ),
    "a file a slice": ("a.mhd", HEADER + b"ElementDataFile = LIST\ns1.raw\n", "in many files"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_header_that_leaves_something_to_guess_is_refused(name: str, tmp_path: Path) -> None:
    file, content, output = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(VolumeError, match=output) as caught:
        read_header(tmp_path / file)
    assert file in str(caught.value)
