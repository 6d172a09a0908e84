"""Which plan rows ask for a pinned slice: own slices of unchanged masks, and no others."""

import pytest

from engine.runs.making.volume_maker import _is_own_slice
from engine.runs.record.plan import PlanRow
from engine.volumes.mask_changes import MaskChange


def row(**changes: object) -> PlanRow:
    fields = {
        "sample_id": "a--own", "case_id": "a", "replica": 0, "num_slices": 9, "mask_source": "a",
        "informed": "own", "informed_case": "a", "informed_source": "a", "informed_z": 4, "seed": 0,
    }  # fmt: skip
    return PlanRow.model_validate({**fields, **changes})


def test_the_own_slice_of_an_unchanged_mask_is_pinned() -> None:
    assert _is_own_slice(row())


@pytest.mark.parametrize(
    "changes",
    [
        {"informed": "cross", "informed_case": "b", "informed_source": "b"},
        {"drawn_mask": "masks/a.nii.gz"},
        {"changes": (MaskChange(purpose="augmentation", flip_x=True),)},
    ],
)
def test_other_patients_slices_and_changed_masks_are_not(changes: dict[str, object]) -> None:
    assert not _is_own_slice(row(**changes))
