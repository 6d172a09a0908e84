"""Changed masks: exact where they must be, inside the contour, and the same every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SamplingError
from engine.volumes.mask_changes import (
    ABDOMEN,
    BRAIN,
    MaskChange,
    apply_change,
    draw_change,
    way_to_centre,
)

SPACING = (3.0, 1.5, 1.5)


def brain(shift: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """An ellipsoid of class 3 with a two-class lesion (2 around 1) in it."""
    z, y, x = np.mgrid[:24, :40, :48]
    mask = np.zeros((24, 40, 48), np.uint8)
    mask[((z - 11.5) / 10) ** 2 + ((y - 19.5) / 16) ** 2 + ((x - 23.5) / 20) ** 2 < 1] = 3
    cz, cy, cx = 11 + shift[0], 16 + shift[1], 14 + shift[2]
    away = ((z - cz) * 2) ** 2 + (y - cy) ** 2 + (x - cx) ** 2
    mask[away < 25] = 2
    mask[away < 8] = 1
    return mask


def edit(**fields: object) -> MaskChange:
    return MaskChange(purpose="edit", **fields)


def test_nothing_to_do_changes_nothing() -> None:
    for classes in ((), (1, 2)):
        np.testing.assert_array_equal(
            apply_change(brain(), edit(classes=classes), SPACING), brain()
        )


def test_a_shift_by_whole_voxels_is_exact_and_heals_what_it_leaves() -> None:
    change = edit(classes=(1, 2), shift_mm_zyx=(6.0, 3.0, 9.0))
    np.testing.assert_array_equal(apply_change(brain(), change, SPACING), brain((2, 2, 6)))


def test_removing_leaves_the_brain_whole() -> None:
    healthy = apply_change(brain(), edit(classes=(1, 2), remove=True), SPACING)
    np.testing.assert_array_equal(healthy, np.where(brain() > 0, 3, 0))


def test_one_component_moves_and_the_other_stays() -> None:
    mask = brain()
    mask[11, 20, 34:37] = 2  # a small second lesion
    small = edit(classes=(1, 2), component=2, remove=True)
    np.testing.assert_array_equal(apply_change(mask, small, SPACING), brain())
    with pytest.raises(SamplingError, match=r"component 3 .* the mask has 2"):
        apply_change(mask, edit(classes=(1, 2), component=3, remove=True), SPACING)


def test_a_flip_goes_to_the_other_side_and_back() -> None:
    change = edit(classes=(1, 2), flip_x=True)
    there = apply_change(brain(), change, SPACING)
    assert np.argwhere(there == 1)[:, 2].mean() == pytest.approx(47 - 14, abs=0.6)
    np.testing.assert_array_equal(apply_change(there, change, SPACING), brain())


def test_the_whole_mask_turns_in_millimetres() -> None:
    turned = apply_change(brain(), edit(rotate_deg_zyx=(0.0, 0.0, 90.0)), SPACING)
    # 24 slices of 3 mm are as long as 48 rows of 1.5 mm: z becomes y
    before, after = np.argwhere(brain() > 0), np.argwhere(turned > 0)
    assert np.ptp(after[:, 1]) * 1.5 == pytest.approx(np.ptp(before[:, 0]) * 3.0, abs=4.5)


def test_growth_is_in_volume() -> None:
    grown = apply_change(brain(), edit(classes=(1, 2), scale_zyx=(1.5, 1.5, 1.5)), SPACING)
    ratio = (np.isin(grown, (1, 2)).sum()) / np.isin(brain(), (1, 2)).sum()
    assert ratio == pytest.approx(1.5**3, rel=0.15)


@given(st.integers(0, 2**40), st.sampled_from(["a", "b-r01"]))
def test_augmented_lesions_keep_the_contour_and_their_size(seed: int, sample_id: str) -> None:
    mask = brain()
    towards = way_to_centre(mask, (1, 2), SPACING)
    change = draw_change(BRAIN, seed, sample_id, (1, 2), 128 * 1.5, towards)
    assert change == draw_change(BRAIN, seed, sample_id, (1, 2), 128 * 1.5, towards)
    assert all(abs(angle) <= 2.5 for angle in change.rotate_deg_zyx)
    assert np.linalg.norm(change.shift_mm_zyx) <= 60 / 512 * 128 * 1.5 + 1e-3
    result = apply_change(mask, change, SPACING)
    np.testing.assert_array_equal(result > 0, mask > 0)
    assert np.isin(result, (1, 2)).sum() == pytest.approx(np.isin(mask, (1, 2)).sum(), rel=0.2)
    again = apply_change(mask, MaskChange.model_validate_json(change.model_dump_json()), SPACING)
    np.testing.assert_array_equal(again, result)


@given(st.tuples(*[st.floats(-200, 200)] * 3))
def test_no_shift_leaves_the_contour(shift: tuple[float, float, float]) -> None:
    mask = brain()
    try:
        result = apply_change(mask, edit(classes=(1, 2), shift_mm_zyx=shift), SPACING)
    except SamplingError:
        return  # off the grid altogether
    np.testing.assert_array_equal(result > 0, mask > 0)


@given(st.integers(0, 2**40))
def test_abdomens_are_only_turned(seed: int) -> None:
    change = draw_change(ABDOMEN, seed, "a", (), 384.0, None)
    assert (change.classes, change.flip_x, change.shift_mm_zyx) == ((), False, (0.0, 0.0, 0.0))
    result = apply_change(brain(), change, SPACING)
    assert set(np.unique(result)) <= {0, 1, 2, 3}
    assert (result > 0).sum() == pytest.approx((brain() > 0).sum(), rel=0.05)


def test_impossible_changes_are_named() -> None:
    with pytest.raises(SamplingError, match="not in this mask"):
        apply_change(brain(), edit(classes=(7,)), SPACING)
    with pytest.raises(SamplingError, match="leaves nothing"):
        apply_change(brain(), edit(remove=True), SPACING)
