"""The choice of the informed slice."""

import pytest

from engine.errors import SamplingError
from engine.runs.planning.rows import CaseFacts, Cases, FixedSlice, choose_slice
from engine.runs.record.plan import InformedSource

COHORT = {"a": 50, "b": 71, "c": 20}


def choose(
    source: InformedSource,
    case_id: str,
    num_slices: int,
    with_image: dict[str, int],
    seed: int,
    sample_id: str,
) -> FixedSlice:
    facts = {name: CaseFacts(depth, True) for name, depth in with_image.items()}
    facts.setdefault(case_id, CaseFacts(num_slices, False))
    return choose_slice(Cases(facts), case_id, source, seed, sample_id, 0)


def test_own_is_the_middle_slice() -> None:
    choice = choose("own", "b", 71, COHORT, 0, "b-r00")
    assert (choice.name, choice.z) == ("b", 35)


def test_cross_is_never_the_same_patient_and_lies_at_the_same_height() -> None:
    for seed in range(50):
        choice = choose("cross", "a", 50, COHORT, seed, "a-r00")
        assert choice.name in {"b", "c"}
        assert abs(choice.z / (COHORT[choice.name] - 1) - 25 / 49) < 0.03


def test_cross_depends_on_seed_and_sample_but_not_on_the_cohorts_order() -> None:
    def draws(cohort: dict[str, int]) -> list[str]:
        return [choose("cross", "a", 50, cohort, s, "x").name for s in range(20)]

    assert draws(COHORT) == draws(dict(reversed(COHORT.items())))
    assert set(draws(COHORT)) == {"b", "c"}


def test_without_an_image_the_choice_is_refused() -> None:
    with pytest.raises(SamplingError, match="use informed cross"):
        choose("own", "x", 10, COHORT, 0, "x")
    with pytest.raises(SamplingError, match="use informed own"):
        choose("cross", "a", 10, {"a": 10}, 0, "a")
