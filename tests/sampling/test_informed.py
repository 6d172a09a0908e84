"""The choice of the informed slice."""

import pytest

from engine.errors import SamplingError
from engine.sampling.informed import choose_informed

COHORT = {"a": 50, "b": 71, "c": 20}


def test_own_is_the_middle_slice() -> None:
    choice = choose_informed("own", "b", 71, COHORT, 0, "b-r00")
    assert (choice.case_id, choice.z) == ("b", 35)


def test_cross_is_never_the_same_patient_and_lies_at_the_same_height() -> None:
    for seed in range(50):
        choice = choose_informed("cross", "a", 50, COHORT, seed, "a-r00")
        assert choice.case_id in {"b", "c"}
        assert abs(choice.z / (COHORT[choice.case_id] - 1) - 25 / 49) < 0.03


def test_cross_depends_on_seed_and_sample_but_not_on_the_cohorts_order() -> None:
    def draws(cohort: dict[str, int]) -> list[str]:
        return [choose_informed("cross", "a", 50, cohort, s, "x").case_id for s in range(20)]

    assert draws(COHORT) == draws(dict(reversed(COHORT.items())))
    assert set(draws(COHORT)) == {"b", "c"}


def test_without_an_image_the_choice_is_refused() -> None:
    with pytest.raises(SamplingError, match="use informed cross"):
        choose_informed("own", "x", 10, COHORT, 0, "x")
    with pytest.raises(SamplingError, match="use informed own"):
        choose_informed("cross", "a", 10, {"a": 10}, 0, "a")
