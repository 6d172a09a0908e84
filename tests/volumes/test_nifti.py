"""Files in and out: exact on every grid and type, and nothing that anyone typed travels."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import VolumeError
from engine.volumes.nifti import fresh_header, read_image, read_labels, write_nifti
from engine.volumes.volume import Volume

LPS = np.array([[-1.0, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 2.0, -5], [0, 0, 0, 1]])


def oblique(angle: float = 0.3) -> np.ndarray:
    turn = np.eye(4)
    c, s = np.cos(angle), np.sin(angle)
    turn[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    turn[:3, 3] = (-17.25, 4.5, 81.0)
    return np.asarray(turn @ LPS)


def noise(shape: tuple[int, ...] = (5, 6, 7), dtype: Any = np.float32) -> np.ndarray:
    return np.asarray(np.random.default_rng(3).normal(0, 50, shape), dtype)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = LPS, **fields: Any) -> Path:
    image = nib.Nifti1Image(array, affine)
    for key, value in fields.items():
        image.header[key] = value
    nib.save(image, path)
    return path


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_reads_what_nibabel_reads(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.abs(noise()).astype(dtype)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(array.dtype.newbyteorder(order))
    nib.save(nib.Nifti1Image(array, oblique(), header), tmp_path / "a.nii.gz")
    read = read_image(tmp_path / "a.nii.gz")
    oracle = nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(read.array, oracle.get_fdata(dtype=np.float32).transpose(2, 1, 0))
    assert np.array_equal(read.affine, oracle.affine)
    assert read.size_zyx == array.shape[::-1]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_reads_nifti_1_and_2_with_scale_factors(tmp_path: Path, kind: Any) -> None:
    image = kind(noise(), LPS)
    image.header.set_data_dtype(np.int16)  # nibabel then chooses scale factors
    image.to_filename(tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii")
    oracle = nib.load(tmp_path / "a.nii").get_fdata().transpose(2, 1, 0)
    assert np.allclose(read.array, oracle, rtol=1e-6)


def test_reads_a_fourth_axis_of_one(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", noise()[..., None])
    assert read_image(tmp_path / "a.nii.gz").size_zyx == (7, 6, 5)


def test_nothing_typed_travels(tmp_path: Path) -> None:
    image = nib.Nifti1Image(noise(), LPS)
    for key in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[key] = b"Jane Doe"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe, 1970"))
    nib.save(image, tmp_path / "a.nii")
    assert b"Jane" in (tmp_path / "a.nii").read_bytes()
    read = read_image(tmp_path / "a.nii")
    assert b"Jane" not in read.header
    write_nifti(tmp_path / "b.nii", read)
    assert b"Jane" not in (tmp_path / "b.nii").read_bytes()


@pytest.mark.parametrize("codes", [(0, 2), (1, 0), (2, 1), (1, 1), (0, 4)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_grid_and_orientation_codes_come_back(tmp_path: Path, codes: Any, suffix: str) -> None:
    qform_code, sform_code = codes
    image = nib.Nifti1Image(noise(), None)
    image.header.set_qform(oblique(), code=qform_code)
    image.header.set_sform(oblique(), code=sform_code)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / f"a{suffix}")
    read = read_image(tmp_path / f"a{suffix}")
    write_nifti(tmp_path / f"b{suffix}", read)
    before, after = nib.load(tmp_path / f"a{suffix}"), nib.load(tmp_path / f"b{suffix}")
    assert np.array_equal(before.affine, after.affine)
    assert np.array_equal(before.get_fdata(), after.get_fdata())
    for key in ("qform_code", "sform_code", "xyzt_units", "quatern_b", "qoffset_x", "srow_x"):
        assert np.array_equal(before.header[key], after.header[key]), key
    assert np.array_equal(before.header["pixdim"][:4], after.header["pixdim"][:4])


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int16, np.int32])
def test_written_values_are_stored_unscaled(tmp_path: Path, dtype: Any) -> None:
    volume = Volume(np.abs(noise()).astype(dtype), oblique(), "made")
    write_nifti(tmp_path / "a.nii.gz", volume)
    oracle = nib.load(tmp_path / "a.nii.gz")
    assert oracle.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(oracle.dataobj), volume.array.transpose(2, 1, 0))
    assert np.allclose(oracle.affine, volume.affine, atol=1e-5)
    assert not list(tmp_path.glob(".*"))


def test_same_volume_same_bytes(tmp_path: Path) -> None:
    volume = Volume(noise(), LPS, "made")
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_foreign_header_is_refused(tmp_path: Path) -> None:
    volume = Volume(noise(), LPS, "made")
    other = fresh_header(Volume(noise((5, 6, 8)), LPS, "other"))
    with pytest.raises(VolumeError, match="header is of another grid"):
        write_nifti(tmp_path / "a.nii", volume, other)
    turned = fresh_header(Volume(noise(), oblique(), "other"))
    with pytest.raises(VolumeError, match="header is of another grid"):
        write_nifti(tmp_path / "a.nii", volume, turned)


def test_unshared_type_and_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="cannot store complex64"):
        write_nifti(tmp_path / "a.nii", Volume(noise(dtype=np.complex64), LPS, "made"))
    with pytest.raises(VolumeError, match="not a NIfTI name"):
        write_nifti(tmp_path / "a.mha", Volume(noise(), LPS, "made"))


@given(edits=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_spoiled_header_is_read_or_refused(tmp_path: Path, edits: Any) -> None:
    """Whatever bytes a header holds: a finite volume, or a VolumeError that names the file."""
    raw = bytearray(nib.Nifti1Image(noise((4, 4, 4)), LPS).to_bytes())
    for place, value in edits:
        raw[place] = value
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(raw), 1))
    for read in (read_image, read_labels):
        try:
            volume = read(path)
        except VolumeError as error:
            assert str(path) in str(error)
        else:
            assert np.isfinite(volume.array).all()
            assert len(volume.header) == 348


@pytest.mark.real
def test_real_volumes_read_as_nibabel_reads_them(real_data: Path) -> None:
    labels = real_data / "Dataset001_BrainFLAIR" / "labelsTs" / "pat0002.nii.gz"
    brain = real_data / "Dataset001_BrainFLAIR" / "brainmasksTs" / "pat0002.nii.gz"
    image = real_data / "Dataset003_AbdomenMR" / "imagesTr" / "mr0001_0000.nii.gz"
    assert np.unique(read_labels(labels).array).tolist() == [0, 1, 2, 3, 4]
    assert np.unique(read_labels(brain).array).tolist() == [0, 1]  # stored as 0.99999997
    oracle = nib.load(image)
    read = read_image(image)
    assert np.array_equal(read.array, oracle.get_fdata(dtype=np.float32).transpose(2, 1, 0))
    assert np.array_equal(read.affine, oracle.affine)


def four_d(path: Path, num_channels: int = 3, vector: bool = False) -> Path:
    """A Decathlon image; with `vector`, channels on the fifth axis, as ITK writes them."""
    array = np.stack([np.full((5, 4, 3), n, np.int16) for n in range(num_channels)], -1)
    array[0, 0, 2] = 50 + np.arange(num_channels)
    image = nib.Nifti1Image(array[:, :, :, None] if vector else array, np.diag([1.0, 2, 3, 1]))
    nib.save(image, path)
    return path


@pytest.mark.parametrize("vector", [False, True])
def test_channel_of_a_4d_file(vector: bool, tmp_path: Path) -> None:
    path = four_d(tmp_path / "a.nii.gz", vector=vector)
    for channel in range(3):
        volume = read_image(path, channel=channel)
        assert volume.size_zyx == (3, 4, 5)
        assert volume.array[2, 0, 0] == 50 + channel
        assert volume.array[0, 0, 0] == channel
    with pytest.raises(VolumeError, match=r"give --channel 0 to 2 for one of its time points or"):
        read_image(path)
    with pytest.raises(VolumeError, match=r"no channel 3, it holds channels 0 to 2"):
        read_image(path, channel=3)
    with pytest.raises(VolumeError, match=r"\dD \("):
        read_labels(path)


def test_channel_of_a_3d_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_nifti(path, Volume(np.ones((3, 4, 5), np.float32), np.diag([1.0, 1, 1, 1]), "a"))
    assert read_image(path, channel=0).size_zyx == (3, 4, 5)
    with pytest.raises(VolumeError, match=r"no channel 1, it holds one image \(channel 0\)"):
        read_image(path, channel=1)
