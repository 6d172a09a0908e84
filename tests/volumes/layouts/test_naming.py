"""Endings in any case, what is read, what is named as unread, and what is passed over."""

from pathlib import Path

import pytest

from engine.errors import LayoutError
from engine.volumes.layouts import find_cases, list_data_set
from engine.volumes.layouts.naming import list_folder, split_channel, split_name, without_role


@pytest.mark.parametrize("ending", [".NII.GZ", ".Nii.gz", ".NII", ".MHA", ".seg.nrrd", ".Nrrd"])
def test_endings_are_compared_in_any_case(ending: str, tmp_path: Path) -> None:
    for folder, stem in (("imagesTr", "a_0000"), ("labelsTr", "a")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{stem}{ending}").touch()
    (case,) = find_cases(tmp_path)
    assert case.case_id == "a"
    assert case.mask.name == f"a{ending}"


def test_folders_are_found_in_any_case(tmp_path: Path) -> None:
    for name in ("Images/a.nii.gz", "Labels/a.nii.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert find_cases(tmp_path)[0].image == tmp_path / "Images/a.nii.gz"


def test_what_is_not_read_is_named_and_texts_are_passed_over(tmp_path: Path) -> None:
    read = ["a.nii.gz", "b.mhd", "c.nhdr"]
    data = ["b.raw", "c.raw.gz"]  # the voxels of b and c
    texts = ["README.md", "LICENSE", "notes.txt", "participants.tsv", ".DS_Store", "._a.nii.gz"]
    unread = ["d.dcm", "e.npz", "f.img", "f.hdr", "g.nii.gz.part", "h", "lonely.raw", "i.gz"]
    for name in (*read, *data, *texts, *unread):
        (tmp_path / name).touch()
    (tmp_path / "series").mkdir()
    found = list_folder(tmp_path)
    assert sorted(file.name for file in found.files.values()) == read
    assert set(found.unread) == {*unread, "series"}
    assert all("convert" in reason or ":" in reason for reason in found.unread.values())


def test_one_name_with_two_endings_is_refused(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.NII", "b.nii.gz"):
        (tmp_path / name).touch()
    with pytest.raises(LayoutError, match=r"duplicate case id a, also a.NII"):
        list_folder(tmp_path)


def test_data_set_of_unread_files_says_so(tmp_path: Path) -> None:
    for name in ("imagesTr/a_0000.npz", "labelsTr/a.npz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(LayoutError, match=r"2 files are not read, for example imagesTr/a_0000.npz"):
        list_data_set(tmp_path)


def test_names() -> None:
    assert split_name("a.b.nii.gz") == ("a.b", ".nii.gz")
    assert split_name("x.SEG.nrrd") == ("x", ".seg.nrrd")
    assert split_name("x.gz") is None
    assert split_channel("Case_00001") == ("Case_00001", None)
    assert split_channel("Case_00001_0000") == ("Case_00001", 0)
    assert (without_role("label0012"), without_role("pat7-mask")) == ("0012", "pat7")
    assert (without_role("mask"), without_role("liver_1")) == ("mask", "liver_1")
