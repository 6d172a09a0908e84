"""Structures, the brain's contour and the three levels of masks."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import VolumeError
from engine.volumes.heads import LEVELS, HeadConfig, level_config, make_anatomy, make_head
from engine.volumes.heads.labels import LESION_CLASSES, RAW_LABELS, Level, label_names
from engine.volumes.heads.structures import TISSUE_NAMES, TISSUES, parenchyma, tissue_map
from engine.volumes.prepared.prepare import prepare_case
from engine.volumes.volume import Volume
from tests.volumes.heads.small_head import SIZE_ZYX, small_anatomy, small_labels, small_volume


def test_each_structure_is_one_tissue_and_each_brain_tissue_has_one_raw_label() -> None:
    numbers = [number for structures in TISSUES.values() for number in structures]
    assert len(numbers) == len(set(numbers)) == 54  # 53 structures and what is none
    names = [name for _, tissues in RAW_LABELS.values() for name in tissues]
    assert len(names) == len(set(names))
    inner = np.arange(len(TISSUE_NAMES), dtype=np.uint8)[:, None, None]
    brain = {TISSUE_NAMES[n] for n in np.flatnonzero(parenchyma(inner))}
    assert brain == set(names) - {"csf"}


def test_a_map_on_any_axes_becomes_the_same_anatomy() -> None:
    anatomy = small_anatomy()
    assert anatomy.size_zyx == SIZE_ZYX
    assert np.array_equal(anatomy.tissues, tissue_map(small_labels(), "small"))
    assert np.allclose(anatomy.affine[:3, :3], np.eye(3))


def test_the_brain_holds_its_parenchyma_and_some_fluid_but_no_skull() -> None:
    anatomy = small_anatomy()
    labels = small_labels()
    assert anatomy.brain[parenchyma(anatomy.tissues)].all()
    assert anatomy.brain[labels == 24].any()
    assert not anatomy.brain[np.isin(labels, (0, 507, 511))].any()


@pytest.mark.parametrize("lesions", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_all_classes_of_a_level_are_in_the_prepared_mask(level: Level, lesions: bool) -> None:
    head = make_head(small_anatomy(), HeadConfig(site="A", lesions=lesions), seed=3)
    config = level_config(level, lesions=lesions)
    case = prepare_case(head.image, head.labels, config, head.case_id, head.brain)
    assert case.class_names[-1] == "brain"
    if lesions:
        assert case.class_names[:4] == LESION_CLASSES
    present = np.unique(case.native_mask)
    assert present.tolist() == list(range(case.num_classes + 1))
    inside = head.brain.array > 0
    assert np.array_equal(case.native_mask > 0, inside), "every level has the same contour"
    assert case.intensity.masked, "what goes back is stripped, too"


def test_levels_hold_more_and_more() -> None:
    sizes = [len(level_config(level).all_class_names) for level in LEVELS]
    assert sizes == [1, 5, 10]
    assert set(label_names(lesions=True)) >= {*LESION_CLASSES, "csf", "cerebral_cortex"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({3: 999}, r"small: labels \[999\] are no structures"),
        ({3: -3}, r"small: labels \[-3\] are no structures"),
        ({2: 3, 41: 42}, "small: no cerebral white matter"),
    ],
)
def test_what_is_no_head_label_map_is_refused(change: dict[int, int], message: str) -> None:
    volume = small_volume()
    array = volume.array.copy()
    for old, new in change.items():
        array[volume.array == old] = new
    with pytest.raises(VolumeError, match=message):
        make_anatomy(Volume(array, volume.affine, "small"), "small")


def test_coarse_label_maps_are_refused() -> None:
    volume = small_volume()
    with pytest.raises(VolumeError, match=r"voxels of 2 x 2 x 2 mm .*about 1 mm"):
        make_anatomy(Volume(volume.array, volume.affine * 2, "small"), "small")
