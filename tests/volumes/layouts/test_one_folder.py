"""Images and masks side by side: a folder a case, or one folder for all, as published."""

from pathlib import Path

import pytest

from engine.errors import LayoutError
from engine.volumes.layouts import find_cases, list_data_set
from engine.volumes.layouts.find import recognise


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def pairs(root: Path, channel: int | None = None) -> list[tuple[str, str, str]]:
    cases = find_cases(root, channel=channel)
    assert all(case.image for case in cases)
    return [
        (
            c.case_id,
            (c.image or root).relative_to(root).as_posix(),
            c.mask.relative_to(root).as_posix(),
        )
        for c in cases
    ]


def brats(root: Path, *cases: str) -> Path:
    kinds = ("t1c", "t1n", "t2f", "t2w", "seg")
    return touch(root, *(f"{case}/{case}-{kind}.nii.gz" for case in cases for kind in kinds))


def test_kits(tmp_path: Path) -> None:
    for case in ("case_00000", "case_00001"):
        touch(tmp_path, f"{case}/imaging.nii.gz", f"{case}/segmentation.nii.gz")
        touch(tmp_path, f"{case}/instances/kidney_instance-1_annotation-1.nii.gz")
    touch(tmp_path, "kits23.json")
    assert recognise(tmp_path) == "case_folders"
    assert pairs(tmp_path) == [
        (case, f"{case}/imaging.nii.gz", f"{case}/segmentation.nii.gz")
        for case in ("case_00000", "case_00001")
    ]


def test_brats_images_are_told_apart_and_chosen(tmp_path: Path) -> None:
    root = brats(tmp_path, "BraTS-GLI-00000-000", "BraTS-GLI-00002-001")
    with pytest.raises(LayoutError, match=r"channels 0 \(.*-t1c.*2 \(.*-t2f.*give --channel"):
        find_cases(root)
    assert [image for _, image, _ in pairs(root, channel=2)] == [
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz",
        "BraTS-GLI-00002-001/BraTS-GLI-00002-001-t2f.nii.gz",
    ]
    with pytest.raises(LayoutError, match=r"no image of channel 4, there are 0 .*give --channel"):
        find_cases(root, channel=4)


def test_a_number_means_the_same_image_in_all_cases(tmp_path: Path) -> None:
    root = brats(tmp_path, "a", "b")
    (root / "b/b-t1c.nii.gz").unlink()  # b's third is now another one
    assert [image for _, image, _ in pairs(root, channel=2)] == ["a/a-t2f.nii.gz", "b/b-t2f.nii.gz"]
    found = list_data_set(root, channel=0)
    assert [case.case_id for case in found.cases] == ["a"]
    assert "b has no image t1c; add it" in found.left_out["b"]


def test_cases_of_different_images_are_not_mixed(tmp_path: Path) -> None:
    touch(tmp_path, "a/a_t1.nii", "a/a_seg.nii", "b/b_flair.nii", "b/b_seg.nii")
    with pytest.raises(LayoutError, match=r"different images \(flair, t1\); give --channel"):
        find_cases(tmp_path)
    assert pairs(tmp_path / ".", channel=1) == [("a", "a/a_t1.nii", "a/a_seg.nii")]


def test_totalsegmentator_with_its_splits(tmp_path: Path) -> None:
    for case in ("s0000", "s0001", "s0002"):
        touch(tmp_path, f"{case}/ct.nii.gz", f"{case}/segmentations/liver.nii.gz")
    table = "image_id;age;split;pathology\ns0000;60;train;no\ns0001;61;val;no\ns0002;62;test;no\n"
    (tmp_path / "meta.csv").write_text("\ufeff" + table)
    found = find_cases(tmp_path)
    assert [(case.case_id, case.split) for case in found] == [
        ("s0000", "train"), ("s0001", "test"), ("s0002", "test"),
    ]  # fmt: skip
    assert found[0].mask == tmp_path / "s0000" / "segmentations"


def test_cases_without_mask_or_image_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/imaging.nii.gz", "a/segmentation.nii.gz", "b/imaging.nii.gz")
    touch(tmp_path, "c/segmentation.nii.gz", "notes/readme.txt", "a/scan.dcm")
    found = list_data_set(tmp_path)
    assert [case.case_id for case in found.cases] == ["a"]
    assert sorted(found.left_out) == ["a/scan.dcm", "b", "c"]
    assert "no mask in it" in found.left_out["b"]


def test_several_masks_of_a_case_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/ct.nii.gz", "a/a_seg.nii.gz", "a/a_mask.nii.gz")
    with pytest.raises(LayoutError, match=r"several masks of a \(a_mask.nii.gz, a_seg.nii.gz\)"):
        find_cases(tmp_path)


def test_lits_side_by_side(tmp_path: Path) -> None:
    for number in (1, 10):
        touch(tmp_path, f"volume-{number}.nii", f"segmentation-{number}.nii")
    assert recognise(tmp_path) == "flat"
    expected = [(f"segmentation-{n}", f"volume-{n}.nii", f"segmentation-{n}.nii") for n in (1, 10)]
    assert pairs(tmp_path) == expected
    found = find_cases(None, images=tmp_path, masks=tmp_path)
    assert [case.case_id for case in found] == ["segmentation-1", "segmentation-10"]


@pytest.mark.parametrize(
    ("image", "mask"),
    [("pat1.nii.gz", "pat1_seg.nii.gz"), ("pat1_ct.nii.gz", "pat1_ct-label.nii.gz"),
     ("image_7.nii.gz", "label_7.nii.gz"), ("x.nii.gz", "x.seg.nrrd")],
)  # fmt: skip
def test_names_that_share_all_but_a_word(tmp_path: Path, image: str, mask: str) -> None:
    touch(tmp_path, image, mask)
    if mask.endswith(".seg.nrrd"):  # the ending alone does not say it
        with pytest.raises(LayoutError, match="duplicate case id"):
            find_cases(tmp_path)
        return
    ((_, found, mask_found),) = pairs(tmp_path)
    assert (found, mask_found) == (image, mask)


def test_images_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "pat1.nii.gz", "pat2.nii.gz", "pat1_seg.nii.gz")
    with pytest.raises(LayoutError, match=r"which image belongs to which mask \(\['pat2'\]\)"):
        find_cases(tmp_path)


def test_a_wrong_folder_says_what_was_meant(tmp_path: Path) -> None:
    touch(tmp_path / "dicom", "p1/IM1.dcm")
    touch(tmp_path / "set", "imagesTr/a_0000.nii.gz")
    touch(tmp_path / "pre", "gt_segmentations/a.nii.gz", "nnUNetPlans_3d_fullres/a.b2nd")
    for name, message in (("dicom", "dcm2niix"), ("set", "no labelsTr"), ("pre", "nnUNet_raw")):
        with pytest.raises(LayoutError, match=message):
            find_cases(tmp_path / name)
    with pytest.raises(LayoutError, match="a file, no folder"):
        find_cases(tmp_path / "set" / "imagesTr" / "a_0000.nii.gz")


def test_links_to_nowhere_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    (tmp_path / "imagesTr/b_0000.nii.gz").symlink_to(tmp_path / ".git/annex/objects/x")
    found = list_data_set(tmp_path)
    assert [case.case_id for case in found.cases] == ["a"]
    assert "datalad get" in found.left_out["b"]
