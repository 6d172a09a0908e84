import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RunError
from engine.parallel.rows.pipeline import choose_pool


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=5),
    st.one_of(st.none(), st.integers(1, 50)),
    st.integers(1, 100),
)
def test_workers_never_hold_every_cpu(
    cpus: list[int], num_workers: int | None, num_rows: int
) -> None:
    pool = choose_pool(num_workers, num_rows, [{"CPU": float(n)} for n in cpus])
    assert 1 <= pool.num_workers <= num_rows
    assert pool.num_threads >= 1
    assert pool.num_cpus > 0
    assert pool.num_workers * pool.num_cpus < sum(cpus)


def test_one_worker_a_computer_with_all_its_threads() -> None:
    pool = choose_pool(None, 9, [{"CPU": 2.0}])
    assert (pool.num_workers, pool.num_cpus, pool.num_threads) == (1, 1.0, 2)
    pool = choose_pool(None, 9, [{"CPU": 16.0}, {"CPU": 16.0}, {}])
    assert (pool.num_workers, pool.num_cpus, pool.num_threads) == (2, 15.0, 16)


def test_one_worker_a_gpu() -> None:
    pool = choose_pool(None, 99, [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}])
    assert (pool.num_workers, pool.num_gpus, pool.num_threads) == (8, 1.0, 4)


@pytest.mark.parametrize(
    ("num_workers", "nodes", "is_elastic"),
    [
        (None, [{"CPU": 16.0, "GPU": 4.0}], True),
        (4, [{"CPU": 16.0, "GPU": 4.0}], False),  # the user's word
        (None, [{"CPU": 4.0}, {"CPU": 16.0}], True),
        (2, [{"CPU": 4.0}], False),
        (None, [{"CPU": 2.0}], False),  # two workers of one CPU would take them all
        (None, [{"CPU": 1.0}], False),
    ],
)
def test_more_workers_start_only_where_they_leave_a_cpu(
    num_workers: int | None, nodes: list[dict[str, float]], is_elastic: bool
) -> None:
    pool = choose_pool(num_workers, 9, nodes)
    assert pool.is_elastic == is_elastic
    if is_elastic:
        assert all(n["CPU"] % pool.num_cpus > 0 or "GPU" in n for n in nodes), "one is left"


def test_no_cpu_is_refused() -> None:
    with pytest.raises(RunError, match="no CPU"):
        choose_pool(None, 1, [{"memory": 1.0}])
