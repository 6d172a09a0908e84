"""Headers that other readers take: read alike, exported so that ITK reads them, told when odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from engine.errors import VolumeError
from engine.volumes.nifti import header_notes, read_image, write_nifti
from engine.volumes.nifti.orientation import shear_deg

LPS = np.array([[-1.0, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 2.0, -5], [0, 0, 0, 1]])
HALF = np.float32(np.sqrt(0.5))


def turned() -> np.ndarray:
    """A quarter turn about z: its quaternion is (0, 0, sqrt(0.5))."""
    return np.array([[0.0, -1.5, 0, 20], [1.0, 0, 0, 30], [0, 0, 2.0, -5], [0, 0, 0, 1]])


def raw_file(
    path: Path,
    sform: tuple[np.ndarray, int] | None = None,
    qform: tuple[np.ndarray, int] | None = None,
    edit: Callable[[Any], None] | None = None,
) -> Path:
    """A file with these header bytes: nibabel's own writer would mend them."""
    header = nib.Nifti1Header()
    array = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    header.set_data_shape(array.shape)
    header.set_xyzt_units("mm")
    if qform is not None:
        header.set_qform(qform[0], code=qform[1], strip_shears=True)
    if sform is not None:
        header.set_sform(sform[0], code=sform[1])
    header["magic"], header["vox_offset"] = b"n+1", 352
    if edit is not None:
        edit(header)
    path.write_bytes(header.structarr.tobytes() + bytes(4) + array.tobytes(order="F"))
    return path


def fields(**values: object) -> Callable[[Any], None]:
    def edit(header: Any) -> None:
        for key, value in values.items():
            header[key] = value

    return edit


def pixdim(place: int | slice, value: object) -> Callable[[Any], None]:
    return lambda header: header["pixdim"].__setitem__(place, value)


def dims(*numbers: int) -> Callable[[Any], None]:
    return lambda header: header["dim"].__setitem__(slice(0, len(numbers)), numbers)


def too_long(header: Any) -> None:
    header["quatern_d"] = HALF * np.float32(1 + 1.1e-6)


ZERO = np.diag([0.0, 0, 0, 1])
READ = {
    "qfac 0": (None, (LPS, 1), pixdim(0, 0), LPS),
    "qfac 2": (None, (LPS, 1), pixdim(0, 2), LPS),
    "qfac -0.5": (None, (LPS @ np.diag([1, 1, -1, 1]), 1), pixdim(0, -0.5), None),
    "qfac NaN": (None, (LPS, 1), pixdim(0, np.nan), LPS),
    "quaternion too long": (None, (turned(), 1), too_long, turned()),
    "negative pixdim, qform": (None, (LPS, 1), pixdim(slice(1, 4), [-1, 1.5, -2]), LPS),
    "unused pixdim": ((LPS, 1), (LPS, 1), pixdim(slice(4, 8), [-1, 0, np.nan, np.inf]), LPS),
    "negative pixdim, sform": ((LPS, 1), None, pixdim(slice(1, 4), [-1, -1.5, 2]), LPS),
    "no pixdim, sform": ((LPS, 1), None, pixdim(slice(1, 4), 0), LPS),
    "qform impossible": ((LPS, 1), (LPS, 1), fields(quatern_b=2.0), LPS),
    "qform NaN": ((LPS, 1), (LPS, 1), fields(quatern_b=np.nan), LPS),
    "qform NaN, not used": ((LPS, 1), None, fields(quatern_b=np.nan, qoffset_x=np.inf), LPS),
    "sform zero": ((ZERO, 1), (LPS, 1), None, LPS),
    "sform NaN": ((LPS, 2), (LPS, 1), fields(srow_y=[np.nan] * 4), LPS),
    "units unknown": ((LPS, 1), (LPS, 1), fields(xyzt_units=0), LPS),
    "units of time only": ((LPS, 1), (LPS, 1), fields(xyzt_units=8), LPS),
    "intent": ((LPS, 1), (LPS, 1), fields(intent_code=1002, intent_p1=7.0), LPS),
    "fourth axis 1": ((LPS, 1), (LPS, 1), dims(4, 5, 6, 7, 1), LPS),
    "fourth axis 0": ((LPS, 1), (LPS, 1), dims(4, 5, 6, 7, 0), LPS),
    "five axes": ((LPS, 1), (LPS, 1), dims(5, 5, 6, 7, 1, 1), LPS),
}


@pytest.mark.parametrize("name", READ)
def test_what_itk_reads_is_read_and_comes_back(name: str, tmp_path: Path) -> None:
    sform, qform, edit, expected = READ[name]
    read = read_image(raw_file(tmp_path / "a.nii", sform, qform, edit))
    if expected is None:  # a left-handed grid: the qform as set, before the edit
        assert qform is not None
        expected = qform[0]
    assert np.allclose(read.affine, expected, atol=1e-5)
    assert read.size_zyx == (7, 6, 5)
    write_nifti(tmp_path / "b.nii", read)
    again = nib.load(tmp_path / "b.nii")
    assert np.array_equal(again.affine, read.affine)
    assert np.isfinite(again.header.get_qform()).all()  # whoever takes the qform finds one
    written = nib.Nifti1Header((tmp_path / "b.nii").read_bytes()[:348], check=False)
    assert written["pixdim"][0] in (-1, 1)
    assert (written["pixdim"][1:4] > 0).all()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (fields(quatern_b=2.0), "invalid qform"),
        (fields(quatern_b=np.nan), "affine holds NaN"),
        (pixdim(2, 0), "invalid qform|singular"),
    ],
)
def test_a_qform_alone_that_cannot_be_is_refused(edit: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=message):
        read_image(raw_file(tmp_path / "a.nii", None, (LPS, 1), edit))


def sheared(degrees: float) -> np.ndarray:
    affine = LPS.copy()
    affine[1, 2] = np.tan(np.radians(degrees)) * affine[2, 2]
    return affine


@pytest.mark.parametrize("degrees", [0.01, 1.0, 15.0])
def test_sheared_grid_is_exported_exactly_with_a_qform(degrees: float, tmp_path: Path) -> None:
    affine = sheared(degrees)
    read = read_image(raw_file(tmp_path / "a.nii", (affine, 1), None))
    write_nifti(tmp_path / "b.nii", read)
    again = nib.load(tmp_path / "b.nii")
    assert np.array_equal(again.affine, read.affine)
    assert again.header["qform_code"] == again.header["sform_code"] == 1
    nearest = again.header.get_qform()
    assert shear_deg(nearest) < 1e-3
    assert np.abs(nearest - affine)[:3, :3].max() <= 2 * np.tan(np.radians(degrees))
    (note,) = header_notes(read)
    assert "sheared grid" in note
    assert "nnU-Net" in note


@pytest.mark.parametrize("suffix", ["a", "b"])
def test_orthogonal_grids_keep_their_codes(suffix: str, tmp_path: Path) -> None:
    read = read_image(raw_file(tmp_path / "a.nii", (turned(), 1), None, pixdim(1, 1.0)))
    write_nifti(tmp_path / "b.nii", read)
    header = nib.load(tmp_path / f"{suffix}.nii").header
    assert (header["qform_code"], header["sform_code"]) == (0, 1)


def test_headers_that_readers_take_differently_are_told(tmp_path: Path) -> None:
    def notes(**given: Any) -> tuple[str, ...]:
        return header_notes(read_image(raw_file(tmp_path / "a.nii", **given)))

    spacing = pixdim(slice(1, 4), [1, 1.5, 2])
    assert notes(sform=(LPS, 1), qform=(LPS, 1)) == ()
    assert notes(sform=(LPS, 1), edit=spacing) == ()
    assert notes(qform=(LPS, 1)) == ()
    nearly = LPS.copy()
    nearly[0, 3] += 1e-3
    assert notes(sform=(LPS, 1), qform=(nearly, 1)) == ()
    (message,) = notes(sform=(LPS, 1), edit=pixdim(slice(1, 4), 1))
    assert "pixdim 1 x 1 x 1 mm contradict the sform's voxel edges 1 x 1.5 x 2 mm" in message
    (message,) = notes(sform=(LPS, 1), edit=pixdim(slice(1, 4), [-1, 1.5, 2]))
    assert "ITK and nnU-Net take pixdim" in message
    (message,) = notes(sform=(LPS, 1), qform=(LPS @ np.diag([-1, 1, 1, 1]), 1))
    assert "sform and qform disagree" in message


ITK_GRIDS = {
    "LPS": LPS,
    "left-handed": LPS @ np.diag([-1, 1, 1, 1]),
    "turned": turned(),
    "sheared": sheared(15.0),
    "hardly sheared": sheared(0.006),
}


@pytest.mark.parametrize("name", ITK_GRIDS)
@pytest.mark.parametrize("codes", ["sform", "qform", "both"])
def test_itk_reads_every_export(name: str, codes: str, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    affine = ITK_GRIDS[name]
    if codes == "qform" and "sheared" in name:
        pytest.skip("a qform holds no shear")
    given = {key: (affine, 1) for key in ("sform", "qform") if codes in (key, "both")}
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    path = raw_file(tmp_path / "a.nii", edit=pixdim(slice(1, 4), edges), **given)
    write_nifti(tmp_path / "b.nii.gz", read_image(path))
    image = sitk.ReadImage(str(tmp_path / "b.nii.gz"))
    steps = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    tolerance = 1e-4 if "sheared" not in name else 2 * np.radians(shear_deg(affine))
    assert np.allclose(np.diag([-1, -1, 1]) @ steps, affine[:3, :3], atol=tolerance)
    origin = np.array(image.GetOrigin()) * (-1, -1, 1)
    assert np.allclose(origin, affine[:3, 3], atol=1e-4)
