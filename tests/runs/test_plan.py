from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import RunError, SamplingError, StoreError
from engine.runs.planning.rows import CaseFacts, FixedSlice, PlanSettings, build_plan, plan_rows
from engine.runs.record.plan import InformedSource, PlanRow, read_plan, render_plan, write_plan

CASES = {f"case{n}": CaseFacts(10 + n, n != 4) for n in range(5)}
WITH_IMAGE = [name for name, facts in CASES.items() if facts.has_image]


@given(st.integers(0, 2**63 - 1), st.integers(1, 4), st.sampled_from(["own", "cross"]))
def test_a_plan_is_a_function_of_its_arguments(
    seed: int, replicas: int, informed: InformedSource
) -> None:
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


IDS = st.text("xy-.1", min_size=1, max_size=5).filter(lambda name: name[0] != ".")
SOURCES = st.sampled_from([("fixed",), ("own", "fixed"), ("fixed", "cross", "own")])


@settings(max_examples=300)
@given(
    masks=st.sets(IDS, min_size=2, max_size=6),
    slices=st.lists(st.tuples(IDS, st.integers(0, 2)), min_size=1, max_size=5),
    sources=SOURCES,
    augmentations=st.integers(0, 2),
)
def test_names_are_different_or_refused(
    masks: set[str],
    slices: list[tuple[str, int]],
    sources: tuple[InformedSource, ...],
    augmentations: int,
) -> None:
    """Whatever hyphens and dots case ids and slice files have."""
    facts = {name: CaseFacts(4, True) for name in masks}
    fixed = tuple(FixedSlice(name, f"{name}.zarr", z) for name, z in slices)
    plan = PlanSettings(sources, 2, 0, augmentations, fixed=fixed)
    try:
        names = [row.sample_id for row in plan_rows(facts, sorted(masks), plan)]
    except SamplingError as error:
        assert "one name" in str(error)
        labels = [(name.replace("-", "_"), z) for name, z in slices]
        assert len(set(labels)) < len(labels), "refused without need"
        return
    num_slices = len(sources) - 1 + len(fixed)
    assert len(names) == len(masks) * num_slices * 2 * max(1, augmentations)
    assert len(set(names)) == len(names)


def test_a_hyphen_is_kept_unless_it_could_be_misread() -> None:
    slices = (FixedSlice("z", "z.zarr", 3), FixedSlice("y-z", "yz.zarr", 3))
    plan = PlanSettings(("fixed",), fixed=slices)

    def names(*masks: str) -> list[str]:
        facts = {name: CaseFacts(10, True) for name in masks}
        return [row.sample_id for row in plan_rows(facts, masks, plan)]

    assert names("x", "w") == ["x-z.3-r00", "x-y-z.3-r00", "w-z.3-r00", "w-y-z.3-r00"]
    assert names("x", "x-y") == ["x-z.3-r00", "x-y_z.3-r00", "x-y-z.3-r00", "x-y-y_z.3-r00"]


def test_a_plan_with_one_name_twice_is_not_written(tmp_path: Path) -> None:
    rows = build_plan(CASES, WITH_IMAGE, "cross", 1, 3)
    twin = rows[0].model_copy(update={"informed_z": 0})
    with pytest.raises(RunError, match=r"case0-r00: two volumes would have this name \(mask case0"):
        write_plan(tmp_path / "plan.jsonl", (*rows, twin))
    assert not list(tmp_path.iterdir())


def test_later_fields_leave_a_rows_digest_as_it_is() -> None:
    (row,) = build_plan(CASES, ["case0"], "own", 1, 3)

    class LaterRow(PlanRow):
        more: str = ""

    later = LaterRow.model_validate_json(row.model_dump_json())
    assert later.sha256 == row.sha256
    assert later.model_copy(update={"more": "x"}).sha256 != row.sha256


def test_a_plan_survives_the_disk(tmp_path: Path) -> None:
    rows = build_plan(CASES, WITH_IMAGE, "cross", 2, 3)
    write_plan(tmp_path / "plan.jsonl", rows)
    assert read_plan(tmp_path / "plan.jsonl") == rows
    with (tmp_path / "plan.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(StoreError, match=r"plan\.jsonl:9: not a plan row"):
        read_plan(tmp_path / "plan.jsonl")
