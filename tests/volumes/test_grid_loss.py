"""What the model's grid loses is counted class by class, and refused where nothing is left."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import VolumeError
from engine.volumes.nifti import read_image, read_labels
from engine.volumes.prepared.class_loss import ClassLoss, describe_loss, loss_notes, total_loss
from engine.volumes.prepared.grid_loss import grid_loss, model_mask, refuse_loss
from engine.volumes.prepared.prepare import BRAIN_FLAIR, PrepareConfig, prepare_case
from engine.volumes.volume import PreparedCase, Volume

CONFIG = PrepareConfig(
    size_yx=(32, 32),
    spacing_mm_yx=3.0,
    label_map={1: 1, 2: 2, 3: 3},
    class_names=("liver", "lesion", "spleen"),
)
GRID = np.diag([1.0, 1.0, 3.0, 1.0])  # 1 mm in-plane, 3 mm slices


def prepared(labels: np.ndarray, config: PrepareConfig = CONFIG) -> PreparedCase:
    return prepare_case(None, Volume(labels.astype(np.int32), GRID, "scan"), config, "case")


def with_lesions() -> np.ndarray:
    """A liver of 30 x 30 x 6 voxels, three lesions of 2 x 2 x 1, and one of 8 x 8 x 2."""
    labels = np.zeros((8, 60, 60), np.uint8)
    labels[1:7, 10:40, 10:40] = 1
    for y, x in ((46, 20), (46, 30), (50, 40)):
        labels[3, y : y + 2, x : x + 2] = 2
    labels[2:4, 12:20, 45:53] = 2
    return labels


def test_voxels_and_parts_are_counted() -> None:
    case = prepared(with_lesions())
    loss = grid_loss(case)
    assert set(loss) == {"liver", "lesion"}, "classes that the mask does not hold are left out"
    lesion = loss["lesion"]
    assert (lesion.voxels, lesion.volume_mm3, lesion.parts) == (12 + 128, 3.0 * 140, 4)
    assert lesion.lost_parts >= 2
    back = model_mask(case)
    assert lesion.kept_voxels == ((case.native_mask == 2) & (back == 2)).sum()
    assert 0.95 < loss["liver"].share <= 1.0
    assert loss["liver"].lost_parts == 0


def test_a_class_that_vanishes_is_named_and_refused_where_asked() -> None:
    labels = with_lesions()
    labels[2:4, 12:20, 45:53] = 0
    labels[3, 50:52, 40:42] = 0
    labels[3, 46:48, 20:22] = 0
    loss = grid_loss(prepared(labels))
    assert loss["lesion"].is_gone
    assert loss_notes(loss) == ("lesion (4 voxels, 12 mm3) is lost on the model's grid",)
    refuse_loss("case", loss, any_class=False)
    with pytest.raises(VolumeError, match=r"case: lesion .* finer grid .* lost_classes: flag"):
        refuse_loss("case", loss, any_class=True)
    labels[labels == 1] = 0
    with pytest.raises(VolumeError, match="leave the case out"):
        refuse_loss("case", grid_loss(prepared(labels)), any_class=False)


def test_the_same_grid_loses_nothing_and_the_contour_is_not_counted() -> None:
    config = replace_config(spacing_mm_yx=1.0, size_yx=(64, 64))
    loss = grid_loss(prepared(with_lesions(), config))
    assert {one.share for one in loss.values()} == {1.0}
    assert loss_notes(loss) == ()
    contour = replace(prepared(with_lesions(), config), contour="liver")
    assert set(grid_loss(contour)) == {"lesion"}


def replace_config(**changes: object) -> PrepareConfig:
    return PrepareConfig.model_validate({**CONFIG.model_dump(), **changes})


def test_a_data_set_is_described_class_by_class() -> None:
    whole = ClassLoss(voxels=100, kept_voxels=90, volume_mm3=300, parts=1, lost_parts=0)
    half = ClassLoss(voxels=10, kept_voxels=4, volume_mm3=30, parts=5, lost_parts=3)
    losses = {"a": {"liver": whole, "lesion": half}, "b": {"liver": whole}}
    assert total_loss(losses.values())["liver"].voxels == 200
    lines = list(describe_loss(losses))
    assert lines == [
        "on the model's grid: liver keeps 90.0% of 200 voxels; 0 of 2 parts have none left",
        "on the model's grid: lesion keeps 40.0% of 10 voxels; 3 of 5 parts have none left",
        "flagged a: lesion (10 voxels, 30 mm3) keeps 40% on the model's grid, 3 of 5 parts lost",
    ]
    many = {f"case{n}": {"lesion": half} for n in range(30)}
    assert list(describe_loss(many))[-1] == "... and 10 more, in dataset.json"


def test_real_tumours_lose_what_was_measured(real_data: Path) -> None:
    root = real_data / "Dataset001_BrainFLAIR"
    case = prepare_case(
        read_image(root / "imagesTr/pat0003_0000.nii.gz"),
        read_labels(root / "labelsTr/pat0003.nii.gz"),
        BRAIN_FLAIR,
        "pat0003",
        read_labels(root / "brainmasksTr/pat0003.nii.gz"),
    )
    loss = grid_loss(case)
    rare = loss["non_enhancing_tumor"]
    assert (rare.voxels, rare.parts) == (3162, 233)
    assert round(rare.share, 2) == 0.43
    assert loss["edema"].share > 0.95
    assert [note.split(" ")[0] for note in loss_notes(loss)] == ["non_enhancing_tumor"]
