"""Workers: plan rows in, committed volumes and status rows out. Volumes never travel.

`ResampleWorker` makes one volume at a time. `FullWorker` holds several rows at once: reading and
writing go on in threads beside one sampling loop, which takes the next row as soon as its batch has
room. A row whose worker was killed while it held others is tried alone (see `ledger.needs_alone`),
so that a case that kills its worker is told apart from those that shared it. Knows no Ray: the pool
in `engine/parallel/rows` calls it, and so can a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from engine.errors import StoreUnreachableError
from engine.runs.making.row_handler import RowHandler, row_status
from engine.runs.making.samplers import LoadSampler, ManySampler, OneByOne, load_sampler
from engine.runs.making.sampling_thread import SamplingThread
from engine.runs.making.task import WorkerTask
from engine.runs.making.volume_maker import Work, peak_memory_mb
from engine.runs.record import ledger
from engine.runs.record.plan import PlanRow
from engine.sampling.request import SampledVolume, SampleRequest

__all__ = [
    "FullWorker",
    "LoadSampler",
    "OneByOne",
    "ResampleWorker",
    "WorkerTask",
    "load_sampler",
    "peak_memory_mb",
]

_IO_THREADS = 2


class ResampleWorker:
    """Holds the model in one process and makes volumes with it, one at a time."""

    def __init__(self, task: WorkerTask, load: LoadSampler = load_sampler) -> None:
        self._handler = RowHandler(task, load)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the volume of one plan row.

        Args:
            row: `{"plan": the row as JSON}`.

        Returns:
            `{"sample_id", "status", "message"}` with status "committed", "failed" or "quarantined".
        """
        handler, plan = self._handler, PlanRow.model_validate_json(row["plan"])
        attempt = handler.begin(plan, alone=True)
        if isinstance(attempt, dict):
            return attempt
        work: Work | None = None
        try:
            work = handler.volumes.read(plan, attempt)
            while work is not None:
                with work.clock.stage("sample"):
                    sampled = self._sample(work.request)
                work = handler.volumes.finish(work, sampled)
        except Exception as error:  # one bad sample must not stop the others
            return handler.failed(plan, attempt, error, work)
        return handler.committed(plan)

    def _sample(self, request: SampleRequest) -> SampledVolume:
        def on_window(done: int, total: int) -> None:
            self._handler.tell_window(request.sample_id, done, total)

        return self._handler.sampler.sample(request, on_window)


class FullWorker:
    """Holds the model in one process and keeps its batch full from several rows."""

    def __init__(self, task: WorkerTask, load: LoadSampler = load_sampler) -> None:
        self._handler = RowHandler(task, load)
        sampler = self._handler.sampler
        many = sampler if isinstance(sampler, ManySampler) else OneByOne(sampler)
        self._sampling = SamplingThread(
            many.sample_many, self._handler.tell_window, self._handler.num_threads
        )
        num_threads = max(_IO_THREADS, min(task.num_threads, task.rows_at_once))
        self._threads = ThreadPoolExecutor(num_threads, "volumes")
        self._sharing = _SharedOrAlone()
        self._may_share = task.rows_at_once > 1
        self._room = asyncio.Semaphore(max(1, task.rows_at_once))

    async def __call__(self, row: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Make the volume of one plan row; yields one status row (see `ResampleWorker`)."""
        plan = PlanRow.model_validate_json(row["plan"])
        try:
            alone = not self._may_share or await self._in_thread(
                ledger.needs_alone, self._handler.folder, plan.sample_id
            )
        except StoreUnreachableError as error:
            yield row_status(plan.sample_id, "failed", str(error))
            return
        async with self._room, self._sharing.enter(alone=alone):
            yield await self._one(plan, alone=alone)

    async def _one(self, plan: PlanRow, *, alone: bool) -> dict[str, Any]:
        handler = self._handler
        begun = await self._in_thread(lambda: handler.begin(plan, alone=alone))
        if isinstance(begun, dict):
            return begun
        work: Work | None = None
        try:
            work = await self._in_thread(handler.volumes.read, plan, begun)
            while work is not None:
                with work.clock.stage("sample"):
                    sampled = await asyncio.wrap_future(self._sampling.submit(work.request))
                _count_own_part(work, sampled)
                work = await self._in_thread(handler.volumes.finish, work, sampled)
        except Exception as error:  # one bad sample must not stop the others
            return handler.failed(plan, begun, error, work)
        return handler.committed(plan)

    async def _in_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)


class _SharedOrAlone:
    """Lets rows that may share a worker in together, and rows that must be alone one by one."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._exclusive = False
        self._waiting = 0

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        """Wait until there is room: for a row that is alone, until nobody is inside.

        Those that must be alone go first, so that rows which keep coming do not hold them off.
        """
        async with self._changed:
            self._waiting += alone
            await self._changed.wait_for(
                lambda: not self._exclusive and (self._inside == 0 if alone else self._waiting == 0)
            )
            self._waiting -= alone
            self._inside += 1
            self._exclusive = alone
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._exclusive = False
                self._changed.notify_all()


def _count_own_part(work: Work, sampled: SampledVolume) -> None:
    """A volume that shares its batch waits for the others: that is not its own time."""
    own_s, seconds = sum(sampled.timings_s.values()), work.clock.seconds
    if own_s < seconds["sample"]:
        seconds["sample/beside others"] = round(seconds["sample"] - own_s, 3)
        seconds["sample"] = round(own_s, 3)
