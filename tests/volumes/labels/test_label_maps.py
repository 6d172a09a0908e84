"""Label maps by name: shipped tables, a data set's own names, and where they contradict a map."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError, LayoutError, VolumeError
from engine.volumes.labels.by_name import map_by_name
from engine.volumes.labels.classes import count_labels, describe_labels
from engine.volumes.labels.declared import DeclaredLabels, declared_labels
from engine.volumes.labels.resolve import resolve_labels
from engine.volumes.labels.tables.public import TABLES, find_table
from engine.volumes.prepare_config import ABDOMEN_CT, BRAIN_FLAIR, PRESETS, PrepareConfig
from engine.volumes.prepared.prepare import classes_of
from engine.volumes.volume import Volume

AMOS = {
    "background": 0, "spleen": 1, "right kidney": 2, "left kidney": 3, "gall bladder": 4,
    "esophagus": 5, "liver": 6, "stomach": 7, "arota": 8, "postcava": 9, "pancreas": 10,
    "right adrenal gland": 11, "left adrenal gland": 12, "duodenum": 13, "bladder": 14,
    "prostate/uterus": 15,
}  # fmt: skip
CT1K = {"background": 0, "liver": 1, "kidney": 2, "spleen": 3, "pancreas": 4}
REGIONS = {
    "background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3,
}  # fmt: skip


def declared(labels: Any, **more: Any) -> DeclaredLabels:
    return declared_labels({"labels": labels, **more}, "D/dataset.json")


def mapped(config: PrepareConfig) -> dict[int, str]:
    return {raw: config.class_names[n - 1] for raw, n in config.label_map.items() if n}


@pytest.mark.parametrize(
    ("name", "preset", "expected"),
    [
        ("amos", "abdomen_ct", {1: "spleen", 2: "kidney", 3: "kidney", 6: "liver", 10: "pancreas"}),
        ("BTCV", "abdomen_ct", {1: "spleen", 2: "kidney", 3: "kidney", 6: "liver", 11: "pancreas"}),
        ("AbdomenCT-1K", "abdomen_ct", {1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"}),
        (
            "TotalSegmentator_v1",
            "abdomen_mr",
            {1: "spleen", 2: "kidney", 3: "kidney", 5: "liver", 10: "pancreas"},
        ),
        (
            "totalsegmentator2",
            "abdomen_ct",
            {1: "spleen", 2: "kidney", 3: "kidney", 5: "liver", 7: "pancreas"},
        ),
        ("msd_liver", "abdomen_ct", {1: "liver", 2: "liver"}),  # the tumour lies inside the liver
        ("Task07_Pancreas", "abdomen_ct", {1: "pancreas", 2: "pancreas"}),
        ("msd_spleen", "abdomen_ct", {1: "spleen"}),
        (
            "Task01_BrainTumour",
            "brain_flair",
            {1: "edema", 2: "non_enhancing_tumor", 3: "enhancing_tumor"},
        ),
        (
            "brats2013",
            "brain_flair",
            {1: "necrosis", 2: "edema", 3: "non_enhancing_tumor", 4: "enhancing_tumor"},
        ),
        ("brats2020", "brain_flair", {1: "necrosis", 2: "edema", 4: "enhancing_tumor"}),
        ("BraTS-2023", "brain_flair", {1: "necrosis", 2: "edema", 3: "enhancing_tumor"}),
    ],
)
def test_shipped_label_maps(name: str, preset: str, expected: Any) -> None:
    config = resolve_labels(PRESETS[preset], name, DeclaredLabels(""))
    assert mapped(config) == expected
    assert set(config.unlabelled_classes) == set(config.class_names) - set(expected.values())
    assert config.all_class_names == PRESETS[preset].all_class_names, "fits the same weights"


def test_the_preset_of_the_abdomen_is_totalsegmentator_2() -> None:
    named = resolve_labels(ABDOMEN_CT, "totalsegmentator2", DeclaredLabels(""))
    assert mapped(named) == mapped(ABDOMEN_CT)


def test_names_of_tables_are_unique() -> None:
    names = [name for table in TABLES for name in (table.name, *table.also)]
    assert len({find_table(name).title for name in names}) == len(TABLES)
    with pytest.raises(ConfigError, match=r"no label map 'totalsegmentator'.*totalsegmentator2"):
        find_table("totalsegmentator")


@pytest.mark.parametrize(
    ("labels", "config", "message"),
    [
        (AMOS, ABDOMEN_CT, r"6 is 'liver', which the map makes back.*--labels amos \(label_map:"),
        (CT1K, ABDOMEN_CT, "1 is 'liver', not 'spleen'.*--labels abdomenct1k"),
        ({k: str(v) for k, v in AMOS.items()}, ABDOMEN_CT, "--labels amos"),  # name -> "1"
        ({str(v): k for k, v in AMOS.items()}, ABDOMEN_CT, "--labels amos"),  # nnU-Net v1, MSD
        (
            {"0": "background", "1": "liver", "2": "cancer"},
            ABDOMEN_CT,
            "--labels msd_liver .*no label for kidney, spleen, pancreas",
        ),
        (
            {"background": 0, "NCR": 1, "ED": 2, "ET": 3},
            BRAIN_FLAIR,
            "3 is 'ET', not 'non_enhancing_tumor'.*--labels brats2023",
        ),
        (
            {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
            BRAIN_FLAIR,
            "--labels msd_braintumour",
        ),
        (REGIONS, BRAIN_FLAIR, r"1 is 'edema', not 'necrosis'.*dataset \(label_map: \{1: 2, 2: 1"),
        ({"background": 0, "spleen": 1, "ignore": 2}, ABDOMEN_CT, "2 is `ignore`.*not 'kidney'"),
        ({"background": 0, "lung": 5}, ABDOMEN_CT, "5 is 'lung', not 'liver'.*None of the classes"),
        ({"background": 0, "spleen_left": 1, "Organ": 5, "Liver": 9}, ABDOMEN_CT, "9 is 'Liver'"),
        (["background", "liver"], ABDOMEN_CT, "1 is 'liver', not 'spleen'"),
    ],
)
def test_contradictions_are_refused_with_the_map_that_is_right(
    labels: Any, config: Any, message: str
) -> None:
    found = declared(labels)
    with pytest.raises(ConfigError, match=message):
        resolve_labels(config, None, found)
    assert resolve_labels(config, None, found, trust=True).label_map == config.label_map


@pytest.mark.parametrize(
    ("labels", "config"),
    [
        ({"background": 0}, ABDOMEN_CT),
        ({}, ABDOMEN_CT),
        ({"background": 0, "spleen": 1, "kidney_right": 2, "Kidney L": 3, "Liver": 5}, ABDOMEN_CT),
        ({"background": 0, "Milz": 1, "something": 5}, ABDOMEN_CT),  # names that tell nothing
        (
            {"background": 0, "necrosis": 1, "edema": 2, "NET": 3, "enhancing_tumor": 4},
            BRAIN_FLAIR,
        ),
        ({"background": 0, "liver": 1}, PrepareConfig()),  # class `object` may be anything
    ],
)
def test_agreement_and_silence_pass(labels: Any, config: Any) -> None:
    assert resolve_labels(config, None, declared(labels)) == config


def test_a_named_map_is_compared_with_the_data_sets_names() -> None:
    short = declared({name: n for name, n in AMOS.items() if n <= 10})
    with pytest.raises(ConfigError, match="10 is 'pancreas', which the map makes background"):
        resolve_labels(ABDOMEN_CT, "btcv", short)
    assert mapped(resolve_labels(ABDOMEN_CT, "amos", short))[10] == "pancreas"


def test_own_names_make_a_map() -> None:
    config = resolve_labels(ABDOMEN_CT, "dataset", declared(AMOS))
    assert mapped(config) == mapped(resolve_labels(ABDOMEN_CT, "amos", DeclaredLabels("")))
    regions = resolve_labels(BRAIN_FLAIR, "dataset", declared(REGIONS))
    assert mapped(regions) == {1: "edema", 2: "necrosis", 3: "enhancing_tumor"}
    with pytest.raises(ConfigError, match="names no labels"):
        resolve_labels(ABDOMEN_CT, "dataset", declared({"background": 0}))
    with pytest.raises(ConfigError, match="none of the classes liver"):
        resolve_labels(ABDOMEN_CT, "brats2023", DeclaredLabels(""))


def test_regions_are_read_value_by_value() -> None:
    kits = declared({"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2})
    assert kits.names == {1: "kidney", 2: "tumor", 3: "masses"}
    crossing = {"background": 0, "left half": [1, 2], "upper half": [2, 3]}
    with pytest.raises(LayoutError, match="gives 2 to left half and upper half"):
        declared(crossing)
    painted = declared(crossing, regions_class_order=[1, 2])
    assert painted.names == {1: "left half", 2: "upper half", 3: "upper half"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"spleen": 1, "liver": 1}, "gives 1 to spleen and liver"),
        ({"spleen": -1}, "has -1 for spleen"),
        ({"spleen": True}, "has True for spleen"),
        ({"spleen": 1.5}, "has 1.5 for spleen"),
        ({"spleen": []}, "no number for spleen"),
        ({"spleen": None}, "has None for spleen"),
        ({"1": 2}, "not a name"),
        ({"background": 1, "liver": 2}, "makes background 1; background is 0"),
        ({"background": 0, "liver": 1, "ignore": 1}, "`ignore` a number that is taken"),
        ("liver", "is no object"),
    ],
)
def test_descriptions_that_contradict_themselves_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        declared(labels)


def test_voxels_that_nobody_annotated_never_become_a_class() -> None:
    config = resolve_labels(ABDOMEN_CT, "dataset", declared({"spleen": 1, "ignore": 2}))
    assert (config.ignore_label, mapped(config)) == (2, {1: "spleen"})
    labels = Volume(np.array([[[0, 1, 2, 2]]], np.int32), np.eye(4), "a.nii.gz")
    with pytest.raises(VolumeError, match=r"a\.nii\.gz: 2 voxels have label 2, `ignore`"):
        classes_of(labels, config)
    taken = config.model_copy(update={"ignored_voxels": "background"})
    assert classes_of(labels, taken).tolist() == [[[0, 3, 0, 0]]]
    with pytest.raises(ValueError, match="nobody annotated those"):
        PrepareConfig(ignore_label=1)


def test_a_class_without_a_label_must_be_said_to_have_none() -> None:
    with pytest.raises(ValueError, match=r"no label to the classes \[2\].*unlabelled_classes"):
        PrepareConfig(label_map={1: 1}, class_names=("a", "b"))
    kept = PrepareConfig(label_map={1: 1}, class_names=("a", "b"), unlabelled_classes=("b",))
    assert kept.all_class_names == ("a", "b")
    for names in (("a",), ("c",), ("b", "a")):
        with pytest.raises(ValueError, match="unlabelled_classes"):
            PrepareConfig(label_map={1: 1}, class_names=("a", "b"), unlabelled_classes=names)


def test_a_tumour_that_does_not_say_its_organ_is_left_out_where_there_are_several() -> None:
    found = map_by_name({1: "liver", 2: "spleen", 3: "tumor"}, ("liver", "spleen"))
    assert found.label_map == {1: 1, 2: 2}
    found = map_by_name({1: "kidney", 2: "tumor", 3: "cyst"}, ("kidney",))
    assert found.label_map == {1: 1, 2: 1, 3: 0}
    found = map_by_name({1: "liver", 2: "cancer"}, ("liver", "lesion"))
    assert found.label_map == {1: 1, 2: 2}


@given(st.lists(st.integers(0, 2**17), min_size=1, max_size=60))
def test_labels_are_counted(values: list[int]) -> None:
    counted = count_labels(np.array(values, np.int32).reshape(1, 1, -1))
    assert counted == {v: values.count(v) for v in sorted(set(values))}


def test_what_became_what_is_told_once_a_data_set() -> None:
    config = resolve_labels(ABDOMEN_CT, "msd_liver", DeclaredLabels(""))
    names = declared({"liver": 1, "cancer": 2})
    lines = describe_labels(config, names, [{0: 9, 1: 5}, {0: 9, 1: 2, 2: 1, 7: 4}, {}])
    assert lines == [
        "class 1 liver: raw label 1 (liver) 7 voxels, raw label 2 (cancer) 1 voxels; "
        "in 2 of 2 cases",
        "class 2 kidney: no label in this data set",
        "class 3 spleen: no label in this data set",
        "class 4 pancreas: no label in this data set",
        "class 5 body: added around them",
        "no class: raw label 7 4 voxels",
    ]
