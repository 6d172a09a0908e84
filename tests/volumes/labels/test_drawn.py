"""Which numbers a drawn mask has, and when it is only a part of one."""

import numpy as np
import pytest

from engine.errors import VolumeError
from engine.volumes.labels.drawn import Drawing, drawn_mask
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.prepared.prepare import prepare_case
from engine.volumes.volume import PreparedCase, Volume

CONFIG = PrepareConfig(
    size_yx=(32, 32),
    label_map={5: 1, 1: 2, 2: 3},
    class_names=("liver", "spleen", "tumor"),
    other_labels="background",
)


@pytest.fixture
def raw() -> Volume:
    """A liver (5) with a tumour (2) in it and a spleen (1)."""
    labels = np.zeros((8, 20, 20), np.int32)
    labels[1:7, 2:12, 2:12] = 5
    labels[3:5, 5:8, 5:8] = 2
    labels[1:7, 13:18, 13:18] = 1
    return Volume(labels, np.diag([3.0, 3.0, 5.0, 1.0]), "drawn.nii.gz")


@pytest.fixture
def case(raw: Volume) -> PreparedCase:
    return prepare_case(None, raw, CONFIG, "pat1")


def test_a_whole_mask_in_raw_labels(case: PreparedCase, raw: Volume) -> None:
    found = drawn_mask(case, raw, CONFIG, Drawing())
    np.testing.assert_array_equal(found, case.native_mask)
    healed = Volume(np.where(raw.array == 2, 5, raw.array), raw.affine, raw.source)
    found = drawn_mask(case, healed, CONFIG, Drawing())  # the rest is there: a whole mask
    np.testing.assert_array_equal(found, np.where(case.native_mask == 3, 1, case.native_mask))


def test_class_numbers_of_an_export_are_not_taken_for_raw_labels(case: PreparedCase) -> None:
    numbers = Volume(case.native_mask.astype(np.int32), case.native.affine, "exported.nii.gz")
    with pytest.raises(VolumeError, match=r"exported\.nii\.gz.* --drawn-labels classes"):
        drawn_mask(case, numbers, CONFIG, Drawing())
    found = drawn_mask(case, numbers, CONFIG, Drawing(numbering="classes"))
    np.testing.assert_array_equal(found, case.native_mask)


def test_raw_labels_are_not_taken_for_class_numbers(case: PreparedCase, raw: Volume) -> None:
    with pytest.raises(VolumeError, match="not class numbers 1 to 3"):
        drawn_mask(case, raw, CONFIG, Drawing(numbering="classes"))


@pytest.mark.parametrize("label", [1, 2, 5])
def test_a_lesion_alone_names_what_would_vanish(
    case: PreparedCase, raw: Volume, label: int
) -> None:
    alone = Volume(np.where(raw.array == 2, label, 0), raw.affine, "alone.nii.gz")
    with pytest.raises(VolumeError, match=r"part of a mask.*(liver|spleen).* would.*--drawn-whole"):
        drawn_mask(case, alone, CONFIG, Drawing())
    found = drawn_mask(case, alone, CONFIG, Drawing(class_name="tumor"))
    np.testing.assert_array_equal(found, case.native_mask)
    assert drawn_mask(case, alone, CONFIG, Drawing(whole=True)).any()


def test_a_single_organ_drawn_as_a_blob_is_a_part(raw: Volume) -> None:
    """One class: nothing vanishes, but a liver does not shrink to a tenth."""
    config = PrepareConfig(size_yx=(32, 32), label_map={1: 1}, class_names=("liver",))
    liver = Volume((raw.array == 5).astype(np.int32), raw.affine, "l.nii.gz")
    case = prepare_case(None, liver, config, "pat1")
    blob = Volume((raw.array == 2).astype(np.int32), raw.affine, "blob.nii.gz")
    with pytest.raises(VolumeError, match="liver would shrink to less than a tenth"):
        drawn_mask(case, blob, config, Drawing())
    lesion = config.model_copy(update={"class_names": ("lesion",)})
    case = prepare_case(None, liver, lesion, "pat1")
    assert drawn_mask(case, blob, lesion, Drawing()).sum() == blob.array.sum()
