"""Which image belongs to which mask: equal names, channel numbers, words that name the role."""

from pathlib import Path

import pytest

from engine.errors import LayoutError
from engine.volumes.layouts import find_cases, list_data_set


def data(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


TWO = ("images/p1_0000.nii.gz", "images/p1_0001.nii.gz", "labels/p1.nii.gz")


def test_two_images_for_a_mask_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"p1_0000.nii.gz.*p1_0001.nii.gz.*give --channel"):
        find_cases(data(tmp_path, *TWO))


@pytest.mark.parametrize("channel", [0, 1])
def test_channel_chooses_in_two_folders(channel: int, tmp_path: Path) -> None:
    (case,) = find_cases(data(tmp_path, *TWO), channel=channel)
    assert case.image == tmp_path / f"images/p1_000{channel}.nii.gz"
    assert (case.case_id, case.channel) == ("p1", None)


def test_channel_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    output = r"no image of channel 4, there are 0 \(p1_0000.nii.gz\), 1 \(p1_0001.nii.gz\)"
    with pytest.raises(LayoutError, match=output):
        find_cases(data(tmp_path, *TWO), channel=4)
    nnunet = data(tmp_path / "n", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(LayoutError, match=r"no image of channel 0, there are 1 \(a_0001"):
        find_cases(nnunet)


def test_plain_and_numbered_image_of_one_mask_are_refused(tmp_path: Path) -> None:
    root = data(tmp_path, "images/p1.nii.gz", *TWO)
    for channel in (None, 0):
        with pytest.raises(LayoutError, match=r"two images .* p1.nii.gz and p1_0000.nii.gz"):
            find_cases(root, channel=channel)


def test_cases_of_different_channels_are_not_mixed(tmp_path: Path) -> None:
    root = data(
        tmp_path,
        *("images/p1_0000.nii.gz", "images/p2_0001.nii.gz", "labels/p1.nii.gz", "labels/p2.nii.gz"),
    )
    with pytest.raises(LayoutError, match=r"several channels \(p1_0000.nii.gz, p2_0001.nii.gz\)"):
        find_cases(root)


def test_numbers_that_masks_have_too_are_names(tmp_path: Path) -> None:
    names = [f"{f}/pat_{n:04d}.nii.gz" for f in ("images", "masks") for n in range(3)]
    found = find_cases(data(tmp_path, *names))
    assert [(c.case_id, c.image and c.image.name) for c in found] == [
        (f"pat_{n:04d}", f"pat_{n:04d}.nii.gz") for n in range(3)
    ]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("img{}.nii.gz", "label{}.nii.gz"),  # BTCV
        ("volume-{}.nii", "segmentation-{}.nii"),  # LiTS
        ("case{}_0000.nii.gz", "case{}_seg.nii.gz"),
    ],
)
def test_words_that_name_the_role_are_left_away(image: str, mask: str, tmp_path: Path) -> None:
    names = [f"images/{image.format(n)}" for n in (1, 12)]
    names += [f"masks/{mask.format(n)}" for n in (1, 12)]
    found = find_cases(data(tmp_path, *names))
    assert {(c.image and c.image.name, c.mask.name) for c in found} == {
        (image.format(n), mask.format(n)) for n in (1, 12)
    }


def test_words_are_not_left_away_where_that_is_ambiguous(tmp_path: Path) -> None:
    root = data(tmp_path, "images/img1.nii.gz", "images/vol1.nii.gz", "masks/label1.nii.gz")
    with pytest.raises(LayoutError, match="no image for the masks"):
        find_cases(root)


def test_image_that_cannot_be_read_leaves_out_its_case_only(tmp_path: Path) -> None:
    root = data(
        tmp_path,
        *("images/a.nii.gz", "images/b_0000.npz", "images/c.nii.gz"),
        *("masks/a.nii.gz", "masks/b.nii.gz", "masks/c.dcm"),
    )
    found = list_data_set(root)
    assert [case.case_id for case in found.cases] == ["a"]
    assert set(found.left_out) == {"b", "c", "images/b_0000.npz", "masks/c.dcm"}
    assert "give the raw data set's .nii.gz" in found.left_out["b"]
    assert "dcm2niix" in found.left_out["c"]
