"""The batcher: every window once and in order, batches full, memory within its budget."""

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sampling.batching.batcher import Batcher, Job
from engine.sampling.propagation.windows import Window, plan_windows

volumes = st.lists(
    st.tuples(st.integers(1, 120), st.integers(1, 6), st.integers(0, 120), st.booleans()),
    min_size=1,
    max_size=12,
)


def drain(batcher: Batcher) -> tuple[list[list[Job]], dict[int, list[Window]], list[int]]:
    """Run to the end; all batches, windows by volume in order of their end, volumes as they end."""
    batches: list[list[Job]] = []
    ended: dict[int, list[Window]] = {}
    whole: list[int] = []
    while batch := batcher.next_batch():
        batches.append(batch)
        done, finished = batcher.advance(batch)
        for job in done:
            ended.setdefault(job.volume, []).append(job.window)
        whole += finished
    assert batcher.is_idle
    return batches, ended, whole


@settings(deadline=None)
@given(volumes, st.integers(1, 9), st.floats(1.0, 50.0), st.integers(1, 3))
def test_every_window_gets_all_its_evaluations_in_the_order_of_its_chain(
    cases: list[tuple[int, int, int, bool]], max_windows: int, memory_mb: float, period: int
) -> None:
    batcher = Batcher(max_windows, memory_mb, period)
    plans = {}
    for key, (num_slices, evaluations, start, side_by_side) in enumerate(cases):
        plans[key] = plan_windows(num_slices, 16, 3, start)
        batcher.add(key, plans[key], evaluations, 10.0, side_by_side)
    batches, ended, whole = drain(batcher)
    assert sorted(whole) == list(plans)
    for key, plan in plans.items():
        assert sorted(ended[key], key=str) == sorted(plan.windows, key=str)
        assert ended[key][0] == plan.first
        for chain in (plan.up, plan.down):
            assert [w for w in ended[key] if w in chain] == list(chain)
        evaluations = cases[key][1]
        for window in plan.windows:
            seen = [
                j.evaluation for b in batches for j in b if (j.volume, j.window) == (key, window)
            ]
            assert seen == list(range(evaluations))
    for batch in batches:
        assert 1 <= len(batch) <= max_windows
        assert len({job.window.size for job in batch}) == 1
        assert len({job.evaluation % period == 0 for job in batch}) == 1
        assert len({(job.volume, job.window) for job in batch}) == len(batch)


def test_batches_stay_full_while_there_is_work() -> None:
    batcher = Batcher(max_windows=8, memory_mb=1e6)
    for key in range(20):
        batcher.add(key, plan_windows(90, 16, 4, 40), 4, 10.0)
    batches, _, _ = drain(batcher)
    full = [len(batch) == 8 for batch in batches]
    assert sum(full) >= 0.8 * len(full)
    assert all(full[: len(full) // 2])


def test_a_batch_holds_several_volumes_both_directions_and_different_steps() -> None:
    batcher = Batcher(max_windows=4, memory_mb=1e6)
    batcher.add(0, plan_windows(60, 16, 4, 20), 3, 1.0)
    for _ in range(4):
        batcher.advance(batcher.next_batch())
    batcher.add(1, plan_windows(60, 16, 4, 20), 3, 1.0)
    batch = batcher.next_batch()
    assert {job.volume for job in batch} == {0, 1}
    assert {job.evaluation for job in batch} == {0, 1}
    assert len([job for job in batch if job.volume == 0]) == 2


def test_admission_keeps_to_the_memory_budget_but_never_starves() -> None:
    batcher = Batcher(max_windows=16, memory_mb=25.0)
    for key in range(5):
        batcher.add(key, plan_windows(40, 16, 1, 0), 1, 10.0)
    most = 0
    while batch := batcher.next_batch():
        most = max(most, len(batcher.admitted))
        batcher.advance(batch)
    assert most == 2
    huge = Batcher(max_windows=2, memory_mb=1.0)
    huge.add(0, plan_windows(40, 16, 1, 0), 1, 100.0)
    assert huge.next_batch()


def test_volumes_admitted_first_are_served_first() -> None:
    batcher = Batcher(max_windows=2, memory_mb=1e6)
    for key in range(4):
        batcher.add(key, plan_windows(60, 16, 4, 20), 2, 1.0)
    _, _, whole = drain(batcher)
    assert whole == [0, 1, 2, 3]


def test_out_of_memory_halves_down_to_one_window() -> None:
    batcher = Batcher(max_windows=5, memory_mb=1.0)
    assert batcher.halve() and batcher.max_windows == 2
    assert batcher.halve() and batcher.max_windows == 1
    assert not batcher.halve()


def test_a_dropped_volume_leaves_the_others_alone() -> None:
    batcher = Batcher(max_windows=4, memory_mb=1e6)
    for key in range(2):
        batcher.add(key, plan_windows(60, 16, 4, 20), 2, 1.0)
    batcher.next_batch()
    batcher.drop(0)
    _batches, ended, whole = drain(batcher)
    assert whole == [1] and list(ended) == [1]
