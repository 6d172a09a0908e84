"""Head cohorts on disk: split, ids, what is kept and what is refused, the truth elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jobs.make_phantoms as job
from engine.errors import LayoutError
from engine.volumes.heads import (
    HeadConfig,
    level_config,
    list_label_maps,
    make_head,
    read_anatomy,
    write_heads,
)
from engine.volumes.layouts import find_cases
from engine.volumes.nifti import read_image, read_labels
from engine.volumes.prepared.prepare import prepare_case
from tests.volumes.heads.small_head import small_anatomy, write_label_maps


def make(tmp_path: Path, *more: str) -> int:
    maps = tmp_path / "maps"
    if not maps.exists():
        write_label_maps(maps)
    options = ["--out", str(tmp_path / "raw"), "--kind", "head", "--label-maps", str(maps)]
    return job.main([*options, *more])


def test_a_cohort_has_the_split_of_its_label_maps(tmp_path: Path) -> None:
    assert make(tmp_path, "--site", "B", "--contrast", "t1") == 0
    cases = find_cases(tmp_path / "raw")
    assert [(case.case_id, case.split) for case in cases] == [
        ("head01_t1_B_i0", "train"),
        ("head02_t1_B_i0", "train"),
        ("head03_t1_B_i0", "test"),
    ]
    assert all(case.brain_mask is not None for case in cases)
    description = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "T1"}
    assert description["numTraining"] == 2
    assert description["labels"]["brainstem"] == 9


def test_files_prepare_with_every_level(tmp_path: Path) -> None:
    assert make(tmp_path, "--site", "B", "--num-phantoms", "1") == 0
    (files,) = find_cases(tmp_path / "raw")
    assert files.brain_mask is not None
    assert files.image is not None
    volumes = read_image(files.image), read_labels(files.mask)
    brain = read_labels(files.brain_mask)
    case = prepare_case(*volumes, level_config("structures"), files.case_id, brain)
    assert case.spacing_mm_zyx == pytest.approx((3.0, 1.6, 1.6))
    assert case.image is not None
    assert case.image[case.mask > 0].mean() > -0.5
    assert (case.image[case.mask == 0] == -1).mean() > 0.9


def test_the_same_settings_give_the_same_voxels_and_files_are_kept(tmp_path: Path) -> None:
    assert make(tmp_path) == 0
    files = sorted((tmp_path / "raw").rglob("*.nii.gz"))
    assert len(files) == 9
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
    files[0].unlink()
    assert make(tmp_path) == 0
    for file, (content, time_ns) in before.items():
        assert file.read_bytes() == content
        assert file.stat().st_mtime_ns == time_ns or file.name.startswith(files[0].name[:6])


def test_a_part_of_a_cohort_has_the_voxels_of_the_whole() -> None:
    config = HeadConfig(site="A")
    alone, again, other = (make_head(small_anatomy(), config, 3, n).image.array for n in (1, 1, 2))
    assert np.array_equal(alone, again)
    assert not np.array_equal(alone, other)


def test_parts_and_individuals(tmp_path: Path) -> None:
    assert make(tmp_path, "--individuals", "2", "--first-index", "3", "--num-phantoms", "2") == 0
    names = [case.case_id for case in find_cases(tmp_path / "raw")]
    assert [name[:6] + name[-3:] for name in names] == ["head02_i1", "head03_i0"]


def test_stripped_images_are_zero_outside_the_brain_and_only_there() -> None:
    for site in "ABCD":
        head = make_head(small_anatomy(), HeadConfig(site=site), seed=3)
        assert np.array_equal(head.image.array > 0, head.brain.array > 0)
        assert np.array_equal(head.labels.array > 0, head.brain.array > 0)
        assert 0.05 < head.brain.array.mean() < 0.6


def test_stripping_changes_nothing_inside_the_brain() -> None:
    whole, stripped = (
        make_head(small_anatomy(), HeadConfig(site="A", stripped=s), seed=3) for s in (False, True)
    )
    inside = stripped.brain.array > 0
    assert np.array_equal(np.maximum(whole.image.array, 1)[inside], stripped.image.array[inside])


def test_the_truth_at_another_site_is_the_same_patient() -> None:
    one, two = (
        make_head(small_anatomy(), HeadConfig(site=site, slice_mm=1.0), seed=3) for site in "AD"
    )
    other = make_head(small_anatomy(), HeadConfig(site="D", slice_mm=1.0), seed=3, individual=1)
    assert np.array_equal(one.labels.array, two.labels.array)
    white = one.labels.array == 1
    images = (one, two, other)
    same, foreign = (
        np.corrcoef(images[a].image.array[white], images[b].image.array[white])[0, 1]
        for a, b in ((0, 1), (0, 2))
    )
    assert same > foreign + 0.1, "the same texture, seen by two scanners"


def test_another_draw_has_the_same_means_and_lesion_but_other_voxels() -> None:
    first, second = (
        make_head(small_anatomy(), HeadConfig(site="A", lesions=True, draw=draw), seed=3)
        for draw in (0, 1)
    )
    assert first.case_id == second.case_id, "so that the two can be paired"
    assert np.array_equal(first.labels.array, second.labels.array)
    assert not np.array_equal(first.image.array, second.image.array)
    cortex = first.labels.array == 2
    means = [head.image.array[cortex].mean() for head in (first, second)]
    assert means[0] == pytest.approx(means[1], rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast": "t2"}, "contrast 'flair' not 't2'"),
        ({"draw": 1}, "draw 0 not 1"),
        ({"lesions": True}, "lesions False not True"),
    ],
)
def test_other_settings_want_another_folder(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_heads(tmp_path / "raw", [], HeadConfig(site="A"), seed=3)
    write_heads(tmp_path / "raw", [], HeadConfig(site="B"), seed=3)  # another site is welcome
    with pytest.raises(LayoutError, match=f"raw: holds heads made with {message}"):
        write_heads(tmp_path / "raw", [], HeadConfig(**changes), seed=3)


@pytest.mark.parametrize("foreign", ["dataset.json", "notes.txt"])
def test_other_data_is_left_alone(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).write_text("{}")
    with pytest.raises(LayoutError, match="holds other data; choose an empty folder"):
        write_heads(tmp_path, [], HeadConfig(), seed=3)
    assert [path.name for path in tmp_path.iterdir()] == [foreign]


def test_folders_without_label_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"maps: no such folder"):
        list_label_maps(tmp_path / "maps")
    (tmp_path / "train").mkdir()
    with pytest.raises(LayoutError, match=r"no label maps; put them into train/ and test/"):
        list_label_maps(tmp_path)
    write_label_maps(tmp_path, train=1, test=0)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "head01.nii.gz").write_bytes(
        (tmp_path / "train" / "head01.nii.gz").read_bytes()
    )
    with pytest.raises(LayoutError, match="head01 in train and in test"):
        list_label_maps(tmp_path)


@pytest.mark.real
def test_a_real_label_map_makes_a_head_like_flair(real_data: Path) -> None:
    folder = real_data / "HeadLabelMaps"
    if not folder.is_dir():
        pytest.skip(f"no head label maps in {folder}")
    files = list_label_maps(folder)
    assert [file.split for file in files] == ["train"] * 12 + ["test"] * 4
    anatomy = read_anatomy(files[0])
    head = make_head(anatomy, HeadConfig(site="B", lesions=True), seed=3)
    ml = anatomy.brain.sum() / 1000
    assert 1100 < ml < 1900, "a brain with its sulci"
    assert head.image.spacing_mm_zyx == pytest.approx((3.0, 1.0, 1.0))
    image, labels = head.image.array, head.labels.array
    ventricle, white, cortex, edema = (image[labels == raw].mean() for raw in (5, 1, 2, 12))
    assert ventricle < 0.5 * white
    assert white < cortex < edema
    config = level_config("tissues", lesions=True)
    case = prepare_case(head.image, head.labels, config, head.case_id, head.brain)
    assert np.unique(case.mask).size == case.num_classes + 1
