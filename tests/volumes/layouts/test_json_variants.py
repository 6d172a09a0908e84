"""dataset.json of nnU-Net 1 and 2, the Decathlon, AMOS, BTCV and MONAI: all their cases, right."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import LayoutError
from engine.volumes.layouts import CaseFiles, find_cases
from engine.volumes.layouts.find import recognise


def data(root: Path, raw: dict[str, Any] | None, *names: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    if raw is not None:
        (root / "dataset.json").write_text(json.dumps(raw))
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def described(root: Path, case: CaseFiles) -> tuple[str, str, str, str]:
    assert case.image is not None
    image, mask = (file.relative_to(root).as_posix() for file in (case.image, case.mask))
    return case.case_id, image, mask, case.split


ROW = {"image": "./imagesTr/la_007.nii.gz", "label": "./labelsTr/la_007.nii.gz"}
V1 = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "training": [ROW]}
V2 = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
FILES = ("imagesTr/la_007_0000.nii.gz", "labelsTr/la_007.nii.gz")
TRAIN = ("la_007", *FILES, "train")


def test_nnunet_1_lists_images_without_their_channel(tmp_path: Path) -> None:
    root = data(tmp_path, V1, *FILES)
    assert recognise(root) == "nnunet_v1"
    for layout in ("auto", "nnunet_v1", "msd", "nnunet"):
        (case,) = find_cases(root, layout)
        assert described(root, case) == TRAIN


def test_nnunet_1_with_two_channels_and_test_cases(tmp_path: Path) -> None:
    raw = {**V1, "modality": {"0": "T2", "1": "ADC"}, "test": ["./imagesTs/t1.nii.gz"]}
    ts = ("imagesTs/t1_0000.nii.gz", "imagesTs/t1_0001.nii.gz", "labelsTs/t1.nii.gz")
    root = data(tmp_path, raw, *FILES, "imagesTr/la_007_0001.nii.gz", *ts)
    assert [described(root, case) for case in find_cases(root)] == [
        TRAIN,
        ("t1", ts[0], ts[2], "test"),
    ]
    found = find_cases(root, channel=1)
    assert [case.image and case.image.name for case in found] == [
        "la_007_0001.nii.gz",
        "t1_0001.nii.gz",
    ]
    with pytest.raises(LayoutError, match=r"no channel 2 \(there are \['0', '1'\]: T2, ADC\)"):
        find_cases(root, channel=2)


def test_nnunet_1_that_lists_the_channel(tmp_path: Path) -> None:
    row = {**ROW, "image": f"./{FILES[0]}"}
    root = data(tmp_path, {"training": [row]}, *FILES, "imagesTr/la_007_0001.nii.gz")
    assert described(root, find_cases(root)[0]) == TRAIN
    (case,) = find_cases(root, channel=1)
    assert case.image == root / "imagesTr/la_007_0001.nii.gz"


def test_nnunet_2_with_the_keys_of_1_takes_its_folders(tmp_path: Path) -> None:
    """The lists beside `file_ending` may be stale: nnU-Net 2 does not read them."""
    root = data(tmp_path, V1 | V2, *FILES, "imagesTr/new_0000.nii.gz", "labelsTr/new.nii.gz")
    assert recognise(root) == "nnunet"
    assert [case.case_id for case in find_cases(root)] == ["la_007", "new"]


def test_nnunet_2_dataset_lists_files_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "D"
    images = ["../elsewhere/c1_0000.nii.gz", str(tmp_path / "elsewhere/c1_0001.nii.gz")]
    listed = {"c1": {"images": images, "label": "../elsewhere/c1_seg.nii.gz"}}
    names = ("c1_0000.nii.gz", "c1_0001.nii.gz", "c1_seg.nii.gz")
    data(tmp_path / "elsewhere", None, *names)
    data(root, V2 | {"channel_names": {"0": "a", "1": "b"}, "dataset": listed})
    (case,) = find_cases(root)
    assert (case.case_id, case.split) == ("c1", "train")
    assert case.image is not None
    assert case.image.resolve() == tmp_path / "elsewhere/c1_0000.nii.gz"
    assert case.mask.resolve() == tmp_path / "elsewhere/c1_seg.nii.gz"
    assert find_cases(root, channel=1)[0].image == tmp_path / "elsewhere/c1_0001.nii.gz"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([1], "`dataset` must be an object of cases"),
        ({"a": {"images": "x.nii.gz"}}, r"dataset\['a'\] needs `images`"),
        ({"a": {"images": [], "label": "a.nii.gz"}}, r"dataset\['a'\] needs `images`"),
        ({"../a": {"images": ["i.nii.gz"], "label": "m.nii.gz"}}, "case id '../a' is refused"),
        ({"a": {"images": ["i.nii.gz"], "label": "m.nii.gz"}}, "i.nii.gz: missing, but dataset.js"),
    ],
)
def test_nnunet_2_dataset_that_is_wrong(dataset: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=message):
        find_cases(data(tmp_path, {"dataset": dataset, "labels": {}}))


def test_decathlon_4d_images_keep_the_channel_for_the_reader(tmp_path: Path) -> None:
    raw = {"modality": {"0": "FLAIR", "1": "T1w"}, "training": [ROW]}
    root = data(tmp_path, raw, "imagesTr/la_007.nii.gz", "labelsTr/la_007.nii.gz")
    assert recognise(root) == "msd"
    assert [find_cases(root, channel=c)[0].channel for c in (None, 0, 1)] == [None, 0, 1]
    with pytest.raises(LayoutError, match=r"no channel 2 \(there are \['0', '1'\]: FLAIR, T1w\)"):
        find_cases(root, channel=2)


def test_validation_and_test_lists_with_masks_are_test_cases(tmp_path: Path) -> None:
    """AMOS has imagesVa and labelsVa; MONAI's lists say `validation` and `testing`."""
    rows = {
        key: {"image": f"images{tail}/{key}.nii.gz", "label": f"labels{tail}/{key}.nii.gz"}
        for key, tail in (("training", "Tr"), ("validation", "Va"), ("testing", "Ts"))
    }
    raw = {key: [row] for key, row in rows.items()}
    raw["test"] = [{"image": "imagesTs/unlabelled.nii.gz"}]
    root = data(tmp_path, raw, *(name for row in rows.values() for name in row.values()))
    assert [(case.case_id, case.split) for case in find_cases(root)] == [
        ("testing", "test"),
        ("training", "train"),
        ("validation", "test"),
    ]


def test_btcv_names_images_and_masks_differently(tmp_path: Path) -> None:
    row = {"image": "imagesTr/img0035.nii.gz", "label": "labelsTr/label0035.nii.gz"}
    root = data(tmp_path, {"training": [row]}, *row.values())
    assert described(root, find_cases(root)[0]) == ("label0035", *row.values(), "train")
    (root / "dataset.json").unlink()
    assert described(root, find_cases(root)[0]) == ("label0035", *row.values(), "train")


def test_monai_lists_an_image_a_channel(tmp_path: Path) -> None:
    row = {"image": ["a_t1.nii.gz", "a_t2.nii.gz"], "label": "a_seg.nii.gz"}
    root = data(tmp_path, {"training": [row]}, *row["image"], "a_seg.nii.gz")
    (case,) = find_cases(root, channel=1)
    assert case.image == root / "a_t2.nii.gz"
    with pytest.raises(LayoutError, match=r"0 \(a_t1.nii.gz\), 1 \(a_t2.nii.gz\); give --channel"):
        find_cases(root)


@pytest.mark.parametrize("ending", [".NII.GZ", ".nrrd", ".mha"])
def test_other_file_endings_of_nnunet(ending: str, tmp_path: Path) -> None:
    raw = V2 | {"file_ending": ending}
    root = data(tmp_path, raw, f"imagesTr/a_0000{ending}", f"labelsTr/a{ending}")
    assert find_cases(root)[0].image == root / f"imagesTr/a_0000{ending}"


def test_listed_masks_alone_in_their_folder_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = data(tmp_path, V1, *FILES, "labelsTr/extra.nii.gz")
    find_cases(root)
    assert "1 masks are not in its lists and left out: extra.nii.gz" in caplog.text


WRONG: dict[str, tuple[Any, ...]] = {
    "parent of data sets": (
        lambda d: data(data(d / "Dataset001_A", V2).parent, None).parent / "data",
        {},
        "it holds the data sets Dataset001_A: give one of them",
    ),
    "inner folder": (
        lambda d: data(d, None, "imagesTr/a_0000.nii.gz") / "imagesTr",
        {},
        "this is a folder of one: give .*data",
    ),
    "volumes side by side": (
        lambda d: data(d, None, "a.nii.gz", "b.nii.gz"),
        {},
        r"it holds a.nii.gz, b.nii.gz: put images and masks into a folder each",
    ),
    "a folder a case": (
        lambda d: data(d, None, "BraTS-1/BraTS-1-t1n.nii.gz", "BraTS-2/BraTS-2-t1n.nii.gz"),
        {},
        r"it holds BraTS-1/, BraTS-2/: put images and masks",
    ),
    "nothing": (lambda d: data(d, None), {}, "the folder holds no .nii.gz and no folder of them"),
    "two folders as nnU-Net": (
        lambda d: data(d, None, "images/a.nii.gz", "masks/a.nii.gz"),
        {"layout": "nnunet"},
        "looks like --layout folders",
    ),
    "nnU-Net as Decathlon": (
        lambda d: data(d, V2, *FILES),
        {"layout": "msd"},
        "looks like --layout nnunet",
    ),
    "nnU-Net as folders": (
        lambda d: data(d, V2, *FILES),
        {"layout": "folders"},
        "looks like --layout nnunet",
    ),
    "listed files that are gone": (
        lambda d: data(d, {"training": [ROW]}, "imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz"),
        {},
        "la_007.nii.gz is missing; .*give --layout nnunet",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_folder_says_what_is_there(name: str, tmp_path: Path) -> None:
    make, options, message = WRONG[name]
    root = make(tmp_path / "data")
    with pytest.raises(LayoutError, match=message):
        find_cases(root, **options)


def test_folders_of_other_layouts_are_not_taken_silently(tmp_path: Path) -> None:
    root = data(tmp_path, V2, *FILES)
    with pytest.raises(LayoutError, match="--images and --masks are for --layout folders"):
        find_cases(root, "nnunet", images=root / "imagesTr")
