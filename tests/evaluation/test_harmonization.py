import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from engine.errors import VolumeError
from engine.evaluation.harmonization import (
    change_of,
    distribution_distance,
    medoid,
    organ_distances,
    site_spread,
)

LEVELS = np.linspace(0, 1, 2001)


@given(st.integers(0, 2**32), st.floats(-50, 50), st.floats(0.5, 3.0))
def test_the_distance_is_wasserstein(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=500), shift + scale * rng.normal(size=400)
    ours = distribution_distance(list(np.quantile(a, LEVELS)), list(np.quantile(b, LEVELS)))
    assert ours == pytest.approx(wasserstein_distance(a, b), rel=0.03, abs=0.03)


def test_a_shift_is_its_own_distance() -> None:
    assert distribution_distance([0, 1, 2], [5, 6, 7]) == 5.0
    assert organ_distances({"liver": [0, 1], "spleen": [0, 1]}, {"liver": [2, 3]}) == {"liver": 2.0}
    with pytest.raises(VolumeError, match="same levels"):
        distribution_distance([0, 1], [0, 1, 2])


def test_spread_is_between_sites_and_not_within() -> None:
    assert site_spread({"a": [0.0, 10.0], "b": [5.0]}) == 0.0
    assert site_spread({"a": [0.0], "b": [10.0]}) == 5.0
    assert site_spread({"a": [0.0], "b": []}) is None


def test_the_medoid_is_in_the_middle_whatever_the_order() -> None:
    cases = {"far": {"liver": 99.0}, "b": {"liver": 2.0, "spleen": 1.0}, "a": {"liver": 1.0}}
    assert medoid(cases) == medoid(dict(reversed(cases.items()))) == "b"
    assert medoid({"alone": {}}) == "alone"
    with pytest.raises(VolumeError, match="no cases"):
        medoid({})


@given(st.integers(0, 2**32), st.floats(-50, 50), st.floats(0.5, 2.0))
def test_a_change_of_appearance_is_told_from_one_of_anatomy(
    seed: int, shift: float, scale: float
) -> None:
    """A monotone change of each class is all shift; another patient of equal looks all redrawn."""
    rng = np.random.default_rng(seed)
    mask = np.repeat(np.array([0, 1, 2], np.uint8), 4000).reshape(3, 40, 100)
    before = rng.normal(10.0 * mask, 5.0)
    again = rng.normal(10.0 * mask, 5.0)

    def change(after: np.ndarray) -> tuple[float, float]:
        tables = {
            k: (list(np.quantile(before[mask == k], LEVELS)),
                list(np.quantile(after[mask == k], LEVELS)))
            for k in (1, 2)
        }  # fmt: skip
        found = change_of(before, after, mask, tables)
        assert found is not None
        return found.shifted, found.redrawn

    looks = np.where(mask == 1, scale * before + shift, before - shift)
    shifted, redrawn = change(looks)
    assert shifted == pytest.approx(np.abs(looks - before)[mask > 0].mean(), abs=0.05)
    assert redrawn < 0.05
    shifted, redrawn = change(again)
    assert shifted < 0.5
    # mean distance of two independent normal values: 2 sigma / sqrt(pi)
    assert redrawn == pytest.approx(10 / np.sqrt(np.pi), rel=0.1)


def test_no_voxel_of_a_class_is_no_change() -> None:
    nothing = np.zeros((2, 3, 4), np.uint8)
    assert change_of(nothing * 1.0, nothing * 1.0, nothing, {1: ([0, 1], [0, 1])}) is None
    with pytest.raises(VolumeError, match="one grid"):
        change_of(nothing * 1.0, np.zeros((2, 3, 5)), nothing, {})
