from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SamplingError, StoreError
from engine.runs.plan import read_plan, render_plan, write_plan
from engine.runs.planning import CaseFacts, build_plan

CASES = {f"case{n}": CaseFacts(10 + n, n != 4) for n in range(5)}
WITH_IMAGE = [name for name, facts in CASES.items() if facts.has_image]


@given(st.integers(0, 2**63 - 1), st.integers(1, 4), st.sampled_from(["own", "cross"]))
def test_a_plan_is_a_function_of_its_arguments(seed: int, replicas: int, informed: str) -> None:
    rows = build_plan(CASES, WITH_IMAGE, informed, replicas, seed)
    shuffled = dict(reversed(CASES.items()))
    assert render_plan(rows) == render_plan(
        build_plan(shuffled, WITH_IMAGE, informed, replicas, seed)
    )
    assert len({row.sample_id for row in rows}) == len(rows) == len(WITH_IMAGE) * replicas
    for row in rows:
        assert 0 <= row.informed_z < CASES[row.informed_case].num_slices
        assert (row.informed_case == row.case_id) == (informed == "own")
        assert CASES[row.informed_case].has_image


def test_a_row_does_not_depend_on_which_other_masks_are_asked_for() -> None:
    alone = build_plan(CASES, ["case2"], "cross", 2, 7)
    together = build_plan(CASES, list(CASES), "cross", 2, 7)
    assert set(alone) <= set(together)


def test_replicas_and_seeds_change_the_informed_slice() -> None:
    rows = build_plan(CASES, ["case0"], "cross", 30, 0)
    assert {row.informed_case for row in rows} == set(WITH_IMAGE) - {"case0"}
    assert rows != build_plan(CASES, ["case0"], "cross", 30, 1)


def test_a_mask_without_image_can_only_be_crossed() -> None:
    assert build_plan(CASES, ["case4"], "cross", 1, 0)[0].informed_case != "case4"
    with pytest.raises(SamplingError, match="case4: has no image"):
        build_plan(CASES, ["case4"], "own", 1, 0)
    with pytest.raises(SamplingError, match="no other case"):
        build_plan({"case0": CASES["case0"]}, ["case0"], "cross", 1, 0)


def test_a_plan_survives_the_disk(tmp_path: Path) -> None:
    rows = build_plan(CASES, WITH_IMAGE, "cross", 2, 3)
    write_plan(tmp_path / "plan.jsonl", rows)
    assert read_plan(tmp_path / "plan.jsonl") == rows
    with (tmp_path / "plan.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(StoreError, match=r"plan\.jsonl:9: not a plan row"):
        read_plan(tmp_path / "plan.jsonl")
