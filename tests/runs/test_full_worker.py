"""Several rows in one worker: side by side, bounded, and alone when one of them may be a killer."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.runs.making.sampling_thread import SamplerStoppedError, SamplingThread
from engine.runs.making.worker import FullWorker, OneByOne, ResampleWorker, WorkerTask
from engine.runs.planning.rows import CaseFacts, build_plan
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow
from engine.sampling.config import SamplingConfig
from engine.sampling.request import Outcome, SampledVolume, SampleRequest
from tests.runs.fakes import FakeSampler, LoadFake, make_data

NUM_CASES = 4


@pytest.fixture
def task(tmp_path: Path) -> WorkerTask:
    RunFolder(tmp_path / "run").create()
    return WorkerTask(
        root=tmp_path / "run",
        data=make_data(tmp_path / "data", NUM_CASES),
        weights=tmp_path,
        sampling=SamplingConfig(),
        settings_sha256="settings",
        weights_sha256="weights",
        code="code",
        num_threads=1,
        rows_at_once=3,
    )


def plan() -> tuple[PlanRow, ...]:
    facts = {f"case{n}": CaseFacts(12 + 2 * n, True) for n in range(NUM_CASES)}
    return build_plan(facts, list(facts), "own", 2, 5)


def run(worker: FullWorker, rows: Iterable[PlanRow]) -> list[dict[str, str]]:
    """All rows at once, as Ray would send them."""

    async def one(row: PlanRow) -> dict[str, str]:
        (status,) = [s async for s in worker({"plan": row.model_dump_json()})]
        return status

    async def all_of_them() -> list[dict[str, str]]:
        return await asyncio.gather(*(one(row) for row in rows))

    return asyncio.run(all_of_them())


class SideBySide(FakeSampler):
    """Takes all it can get before it finishes any, and remembers how many were in it."""

    def sample_many(
        self,
        requests: Iterable[SampleRequest | None],
        on_window: Callable[[str, int, int], None] | None = None,
    ) -> Iterator[Outcome]:
        held: list[SampleRequest] = []
        idle = 0
        for request in requests:
            if request is not None:
                held.append(request)
                self.seen.append(f"{len(held)}")
                idle = 0
                continue
            time.sleep(0.005)
            idle += 1
            if held and idle > 10:
                for name in [r.sample_id for r in held]:
                    one = next(r for r in held if r.sample_id == name)
                    held.remove(one)
                    yield Outcome(name, volume=FakeSampler.sample(self, one))


def test_rows_stand_side_by_side_and_give_the_same_volumes(
    task: WorkerTask, tmp_path: Path
) -> None:
    sampler = SideBySide()
    statuses = run(FullWorker(task, LoadFake(sampler)), plan())
    assert {s["status"] for s in statuses} == {"committed"}
    widths = {int(text) for text in sampler.seen if text.isdigit()}
    assert max(widths) == 3, "as many as rows_at_once, and no more"
    single = replace(task, root=tmp_path / "single", rows_at_once=1)
    RunFolder(single.root).create()
    worker = ResampleWorker(single, LoadFake())
    for row in plan():
        worker({"plan": row.model_dump_json()})
    for row in plan():
        both = [ledger.read_commit(RunFolder(t.root), row.sample_id) for t in (task, single)]
        assert both[0] is not None
        assert both[1] is not None
        assert both[0].files == both[1].files


def test_a_failing_row_fails_alone(task: WorkerTask) -> None:
    rows = plan()
    bad = FakeSampler(fail=frozenset({rows[2].sample_id}), nan=frozenset({rows[4].sample_id}))
    statuses = run(FullWorker(task, LoadFake(bad)), rows)
    failed = {s["sample_id"]: s["message"] for s in statuses if s["status"] != "committed"}
    assert failed.keys() == {rows[2].sample_id, rows[4].sample_id}
    assert "told to fail" in failed[rows[2].sample_id]
    assert "not finite" in failed[rows[4].sample_id]
    lines = RunFolder(task.root).failures.read_text().splitlines()
    assert len(lines) == 2
    assert all('"cause"' in line and '"remedy"' in line and '"case"' in line for line in lines)


class Breaks(SideBySide):
    """The whole loop breaks as soon as a named sample is in it."""

    def sample_many(
        self,
        requests: Iterable[SampleRequest | None],
        on_window: Callable[[str, int, int], None] | None = None,
    ) -> Iterator[Outcome]:
        def watched() -> Iterator[SampleRequest | None]:
            for request in requests:
                if request is not None and request.sample_id in self.kill:
                    raise MemoryError("no memory for it")
                yield request

        return super().sample_many(watched(), on_window)


def test_a_broken_loop_is_held_against_nobody_but_its_breaker(task: WorkerTask) -> None:
    rows = plan()
    breaker = rows[1].sample_id
    folder = RunFolder(task.root)
    worker = FullWorker(task, LoadFake(Breaks(kill=frozenset({breaker}))))
    for _ in range(5):  # as many jobs, or Ray's retries, one after the other
        left = [r for r in rows if ledger.existing(folder, r.sample_id) is None]
        run(worker, left)
    assert [r.sample_id for r in rows if not ledger.existing(folder, r.sample_id)] == [breaker]
    assert ledger.num_failures(folder, breaker) == ledger.MAX_FAILURES
    outcomes = [a.outcome for a in ledger.read_attempts(folder, breaker)]
    assert outcomes.count("failed") == 3
    for row in rows:
        if row.sample_id != breaker:
            assert ledger.num_failures(folder, row.sample_id) == 0


def test_a_suspect_is_tried_alone(task: WorkerTask) -> None:
    rows = plan()
    folder = RunFolder(task.root)
    for row in rows[:2]:  # a worker was killed with these two in it
        ledger.begin_attempt(folder, row.sample_id, "gone", alone=False)
    sampler = SideBySide()
    statuses = run(FullWorker(task, LoadFake(sampler)), rows)
    assert {s["status"] for s in statuses} == {"committed"}
    for row in rows:
        last = ledger.read_attempts(folder, row.sample_id)[-1]
        assert last.alone == (row in rows[:2])


def test_the_feed_starts_again_after_a_break() -> None:
    calls: list[int] = []

    def many(
        requests: Iterable[SampleRequest | None],
        on_window: Callable[[str, int, int], None] | None,
    ) -> Iterator[Outcome]:
        calls.append(1)
        for request in requests:
            if request is None:
                time.sleep(0.001)
            elif request.sample_id == "bad":
                raise RuntimeError("broken")
            else:
                yield Outcome(request.sample_id, volume=FakeSampler().sample(request))

    import numpy as np

    def request(name: str) -> SampleRequest:
        mask = np.zeros((4, 8, 8), np.uint8)
        return SampleRequest(name, 0, mask, np.zeros((8, 8), np.float32), 0.5)

    feed = SamplingThread(many, lambda *_: None, 1)
    with pytest.raises(SamplerStoppedError, match=r"bad: the sampling loop stopped .*broken"):
        feed.submit(request("bad")).result(10)
    assert feed.submit(request("good")).result(10).image.shape == (4, 8, 8)
    deadline = time.monotonic() + 10
    while any(t.name == "sampling" for t in threading.enumerate()):
        assert time.monotonic() < deadline, "an idle feed keeps no thread"
        time.sleep(0.01)
    assert isinstance(feed.submit(request("again")).result(10), SampledVolume)


def test_single_samplers_serve_as_one_of_many() -> None:
    assert not hasattr(FakeSampler(), "sample_many")
    assert list(OneByOne(FakeSampler()).sample_many([None])) == []
