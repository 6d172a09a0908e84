"""Data set folders: which files make a case, and which folders are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import LayoutError
from engine.volumes.layouts import check_case_id, find_cases


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def describe(root: Path, **raw: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(raw))
    return root


def nnunet(root: Path) -> Path:
    describe(root, channel_names={"0": "CT"}, labels={"background": 0}, file_ending=".nii.gz")
    return touch(
        root,
        "imagesTr/b_0000.nii.gz",
        "imagesTr/a-1_0000.nii.gz",
        "labelsTr/b.nii.gz",
        "labelsTr/a-1.nii.gz",
        "labelsTr/.hidden.nii.gz",
        "labelsTr/notes.txt",
        "imagesTs/c_0000.nii.gz",
        "imagesTs/unlabelled_0000.nii.gz",
        "labelsTs/c.nii.gz",
        "brainmasksTs/c.nii.gz",
    )


def msd(root: Path, *rows: dict[str, Any]) -> Path:
    describe(root, training=list(rows), test=["./imagesTs/z.nii.gz"])
    return touch(root, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")


MSD_ROW: dict[str, Any] = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}


def test_nnunet(tmp_path: Path) -> None:
    cases = find_cases(nnunet(tmp_path))
    assert [(c.case_id, c.split) for c in cases] == [
        ("a-1", "train"),
        ("b", "train"),
        ("c", "test"),
    ]
    assert cases[0].image == tmp_path / "imagesTr" / "a-1_0000.nii.gz"
    assert cases[0].mask == tmp_path / "labelsTr" / "a-1.nii.gz"
    assert cases[0].brain_mask is None
    assert cases[2].brain_mask == tmp_path / "brainmasksTs" / "c.nii.gz"


def test_nnunet_channel(tmp_path: Path) -> None:
    describe(tmp_path, channel_names={"0": "T1", "3": "FLAIR"}, labels={})
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0003.nii.gz", "labelsTr/a.nii.gz")
    (case,) = find_cases(tmp_path, channel=3)
    assert case.image == tmp_path / "imagesTr" / "a_0003.nii.gz"
    with pytest.raises(LayoutError, match=r"no channel 1 .*\['0', '3'\]"):
        find_cases(tmp_path, channel=1)


def test_nnunet_without_description(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    assert [case.case_id for case in find_cases(tmp_path)] == ["a"]


def test_msd(tmp_path: Path) -> None:
    (case,) = find_cases(msd(tmp_path, MSD_ROW))
    assert (case.case_id, case.split) == ("a", "train")
    assert case.image == tmp_path / "imagesTr" / "a.nii.gz"


def test_folders(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii", "images/b_0000.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz")
    assert [case.case_id for case in find_cases(tmp_path)] == ["a", "b"]
    touch(tmp_path, "mine/a.nii.gz", "scans/a.nii.gz")
    (case,) = find_cases(tmp_path, images=tmp_path / "scans", masks=tmp_path / "mine")
    assert case.image == tmp_path / "scans" / "a.nii.gz"


def test_masks_alone(tmp_path: Path) -> None:
    (case,) = find_cases(touch(tmp_path, "masks/a.nii.gz"))
    assert case.image is None


def folder(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    return root


REFUSED: dict[str, tuple[Any, ...]] = {
    "no folder": (lambda d: d / "none", {}, "no such folder"),
    "empty folder": (folder, {}, "none of the known layouts"),
    "empty nnU-Net": (lambda d: touch(d, "labelsTr/x.txt"), {}, "no case with a mask"),
    "unknown layout": (nnunet, {"layout": "bids"}, "unknown layout 'bids'; use auto"),
    "missing image": (
        lambda d: touch(nnunet(d), "labelsTr/d.nii.gz"),
        {},
        r"no image for the masks \['d'\]",
    ),
    "missing mask": (
        lambda d: touch(nnunet(d), "imagesTr/d_0000.nii.gz"),
        {},
        r"no mask for the images \['d'\]",
    ),
    "missing test image": (
        lambda d: touch(nnunet(d), "labelsTs/d.nii.gz"),
        {},
        r"no image for the masks \['d'\] .expected imagesTs",
    ),
    "same name twice": (
        lambda d: touch(nnunet(d), "labelsTr/b.nii"),
        {},
        "duplicate case id b, also b.nii",
    ),
    "same id in train and test": (
        lambda d: touch(nnunet(d), "labelsTs/b.nii.gz", "imagesTs/b_0000.nii.gz"),
        {},
        r"duplicate case ids \['b'\]",
    ),
    "space in an id": (
        lambda d: touch(nnunet(d), "labelsTr/a b.nii.gz"),
        {},
        "case id 'a b' is refused; rename",
    ),
    "long id": (
        lambda d: touch(nnunet(d), f"labelsTr/{'a' * 140}.nii.gz"),
        {},
        "is refused; rename",
    ),
    "broken JSON": (
        lambda d: _written(nnunet(d), "dataset.json", "{"),
        {},
        "dataset.json: not valid JSON",
    ),
    "binary JSON": (
        lambda d: _written(nnunet(d), "dataset.json", b"\xff\xfe\x00"),
        {},
        "dataset.json: not valid JSON",
    ),
    "deep JSON": (
        lambda d: _written(nnunet(d), "dataset.json", "[" * 100000),
        {},
        "dataset.json: not valid JSON",
    ),
    "JSON list": (
        lambda d: _written(nnunet(d), "dataset.json", "[]"),
        {},
        "the top level is no object",
    ),
    "labels no object": (
        lambda d: describe(nnunet(d), labels=[1, 2]),
        {},
        "must be objects",
    ),
    "other suffix": (
        lambda d: describe(nnunet(d), labels={}, file_ending=".png"),
        {},
        "file_ending '.png' is not read",
    ),
    "MSD without description": (folder, {"layout": "msd"}, "dataset.json: missing"),
    "MSD without rows": (lambda d: msd(d), {}, "`training` is not a list of cases"),
    "MSD row of text": (
        lambda d: msd(d, "a.nii.gz"),  # type: ignore[arg-type]
        {},
        r"training\[0\] has no `image` and `label`",
    ),
    "MSD path out": (
        lambda d: msd(d, {**MSD_ROW, "label": "../labelsTr/a.nii.gz"}),
        {},
        r"path '../labelsTr/a.nii.gz' leaves the data set's folder",
    ),
    "MSD absolute path": (
        lambda d: msd(d, {**MSD_ROW, "image": "/tmp/a.nii.gz"}),
        {},
        "leaves the data set's folder",
    ),
    "MSD path of a number": (lambda d: msd(d, {**MSD_ROW, "image": 3}), {}, "path 3 leaves"),
    "MSD missing file": (
        lambda d: msd(d, {**MSD_ROW, "image": "imagesTr/b.nii.gz"}),
        {},
        "imagesTr/b.nii.gz is missing",
    ),
    "MSD row twice": (lambda d: msd(d, MSD_ROW, MSD_ROW), {}, r"duplicate case ids \['a'\]"),
    "MSD other suffix": (
        lambda d: touch(msd(d, {**MSD_ROW, "label": "labelsTr/a.npz"}), "labelsTr/a.npz"),
        {},
        "labelsTr/a.npz: a preprocessed array: give the raw",
    ),
    "folders without masks": (folder, {"layout": "folders"}, "no such folder; correct"),
}


def _written(root: Path, name: str, text: str | bytes) -> Path:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


@pytest.mark.parametrize("name", REFUSED)
def test_folder_is_refused(name: str, tmp_path: Path) -> None:
    make, options, message = REFUSED[name]
    root = make(tmp_path / "data")
    with pytest.raises(LayoutError, match=message) as caught:
        find_cases(root, **options)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize("case_id", ["../x", "a/b", "", ".a", "a b", "a\n", "ä", "a" * 129, ".."])
def test_case_id_is_refused(case_id: str) -> None:
    with pytest.raises(LayoutError, match="is refused; rename the file"):
        check_case_id(case_id, "dataset")


@pytest.mark.parametrize("case_id", ["a", "pat0002", "CT-1.2_x", "_a", "0"])
def test_case_id_is_accepted(case_id: str) -> None:
    assert check_case_id(case_id, "dataset") == case_id


@pytest.mark.real
def test_real_data_sets(real_data: Path) -> None:
    brains = find_cases(real_data / "Dataset001_BrainFLAIR")
    assert [case.case_id for case in brains] == [f"pat000{n}" for n in range(2, 7)]
    assert [case.split for case in brains] == ["test", *["train"] * 4]
    assert all(case.brain_mask is not None for case in brains)
    (abdomen,) = find_cases(real_data / "Dataset002_AbdomenCT")
    assert abdomen.case_id == "ct0001"
