"""The window planner: every slice once, for every Z, n, h and start."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.sampling.propagation.windows import plan_windows

sizes = st.tuples(
    st.integers(1, 200), st.integers(2, 40), st.integers(1, 39), st.integers(-20, 220)
)


@given(sizes)
def test_every_slice_is_made_once_and_known_slices_were_made_before(
    case: tuple[int, int, int, int],
) -> None:
    num_slices, window, overlap, start = case
    overlap = min(overlap, window - 1)
    plan = plan_windows(num_slices, window, overlap, start)
    made: list[int] = []
    for chain in (plan.up, plan.down):
        have = set(plan.first.made)
        for part in chain:
            assert set(part.known) <= have, "a known slice has not been made in this chain"
            assert part.size == min(window, num_slices)
            assert part.start >= 0
            assert part.stop <= num_slices
            assert set(range(part.start, part.stop)) & have == set(part.known)
            have |= set(part.made)
            made += part.made
    assert sorted([*plan.first.made, *made]) == list(range(num_slices))


@given(sizes)
def test_both_chains_continue_the_first_window(case: tuple[int, int, int, int]) -> None:
    num_slices, window, overlap, start = case
    overlap = min(overlap, window - 1)
    plan = plan_windows(num_slices, window, overlap, start)
    if plan.up:
        assert plan.first.stop - 1 in plan.up[0].known
        assert len(plan.up[0].known) >= min(overlap, plan.first.size - 1)
    if plan.down:
        assert plan.first.start in plan.down[0].known


@given(sizes)
def test_joins_lie_between_slices_of_different_windows(case: tuple[int, int, int, int]) -> None:
    num_slices, window, overlap, start = case
    overlap = min(overlap, window - 1)
    plan = plan_windows(num_slices, window, overlap, start)
    owner = {z: number for number, part in enumerate(plan.windows) for z in part.made}
    expected = tuple(z for z in range(1, num_slices) if owner[z] != owner[z - 1])
    assert plan.joins == expected


def test_a_shifted_tail_window_pins_every_known_slice_at_its_true_place() -> None:
    plan = plan_windows(num_slices=40, window=16, overlap=1, start=0)
    tail = plan.up[-1]
    assert (tail.start, tail.stop) == (24, 40)
    assert tail.known == tuple(range(24, 31))
    assert tail.known_rows == tuple(range(7))


@pytest.mark.parametrize(
    ("slices", "window", "overlap"), [(0, 16, 1), (20, 16, 16), (20, 16, 0), (20, 1, 1)]
)
def test_impossible_settings_are_refused(slices: int, window: int, overlap: int) -> None:
    with pytest.raises(ConfigError):
        plan_windows(slices, window, overlap, 0)


@given(st.integers(1, 70), st.integers(2, 20), st.integers(1, 19), st.integers(-5, 70), st.data())
def test_given_slices_are_known_to_every_window_that_holds_them(
    num_slices: int, window: int, overlap: int, start: int, data: st.DataObject
) -> None:
    z = data.draw(st.integers(0, num_slices - 1))
    plan = plan_windows(num_slices, window, min(overlap, window - 1), start, {z})
    made = [m for w in plan.windows for m in w.made]
    assert sorted([*made, z]) == list(range(num_slices)), "all others are made once"
    assert all(z in w.known for w in plan.windows if w.start <= z < w.stop)
    assert all(1 <= join < num_slices for join in plan.joins)
