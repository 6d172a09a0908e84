"""Workers: plan rows in, committed volumes and status rows out. Volumes never travel.

`ResampleWorker` makes one volume at a time. `FullWorker` holds several rows at once: reading and
writing go on in threads beside one sampling loop, which takes the next row as soon as its batch has
room. A row whose worker was killed while it held others is tried alone (see `ledger.needs_alone`),
so that a case that kills its worker is told apart from those that shared it. Knows no Ray: the pool
in `engine/parallel/rows` calls it, and so can a test.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from engine.errors import (
    EngineError,
    SamplingError,
    StoreUnreachableError,
    WeightsError,
    fault_of,
    remedy_of,
)
from engine.log import get_logger
from engine.parallel.rows.nodes import this_process
from engine.runs.making.progress import write_event
from engine.runs.making.sampling_thread import SamplerStoppedError, SamplingThread
from engine.runs.making.volume_maker import (
    RejectedError,
    VolumeMaker,
    Work,
    WorkerTask,
    peak_memory_mb,
)
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, try_lock_from_here
from engine.runs.record.identity import hash_weights
from engine.runs.record.names_only import without_folders, worker_name
from engine.runs.record.plan import PlanRow
from engine.runs.record.records import Attempt
from engine.runs.record.withdrawal import (
    WithdrawnError,
    is_withdrawn,
    read_withdrawn,
    refuse_withdrawn,
)
from engine.sampling.config import SamplingConfig
from engine.sampling.request import Outcome, SampledVolume, SampleRequest
from engine.storage.files import PRIVATE_UMASK
from models.manifest import CONFIG

__all__ = ["FullWorker", "LoadSampler", "ResampleWorker", "WorkerTask", "peak_memory_mb"]

log = get_logger(__name__)

_IO_THREADS = 2


@runtime_checkable
class ManySampler(Protocol):
    """A model that makes several volumes side by side."""

    def sample_many(
        self,
        requests: Iterable[SampleRequest | None],
        on_window: Callable[[str, int, int], None] | None = None,
    ) -> Iterator[Outcome]:
        """Make volumes together; see `engine.sampling.sampler.Sampler`."""


class SamplerLike(Protocol):
    """What a worker asks of a model."""

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume."""


LoadSampler = Callable[[Path, SamplingConfig, str], SamplerLike]


def load_sampler(weights: Path, config: SamplingConfig, device: str) -> SamplerLike:
    """The real model; who only names it loads no networks."""
    from engine.sampling.sampler import Sampler

    return Sampler.load(weights, config, device=device)


def _refuse_other_weights(task: WorkerTask, sampler: SamplerLike) -> None:
    """What this worker has loaded must be what the run is made with; its copy may be another.

    A sampler that does not say what it loaded is asked by its folder.

    Raises:
        WeightsError: it is not.
    """
    loaded = getattr(sampler, "weights_sha256", "")
    if not loaded and (task.weights / CONFIG).is_file():
        loaded, _ = hash_weights(task.weights)
    if loaded and task.weights_sha256 and loaded != task.weights_sha256:
        raise WeightsError(
            f"{task.weights}: this worker loaded other weights than the run was planned with "
            f"(sha256 {loaded[:12]}..., planned with {task.weights_sha256[:12]}...); put the "
            "same weights on every machine and start the job again"
        )


class _RowHandler:
    """What both workers do with a row before and after sampling."""

    def __init__(self, task: WorkerTask, load: LoadSampler) -> None:
        import torch  # not at the top: the driver names workers, and shall not load it

        if task.private:
            os.umask(PRIVATE_UMASK)

        self.num_threads = max(1, min(task.num_threads, os.cpu_count() or 1))
        torch.set_num_threads(self.num_threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.folder = RunFolder(task.root)
        try_lock_from_here(self.folder)
        self.lock = task.lock
        self.volumes = VolumeMaker(task, device)
        self.name = worker_name()
        self._folders = (task.root, task.data, task.weights)
        self.sampler = load(task.weights, task.sampling, device)
        _refuse_other_weights(task, self.sampler)

    def begin(self, plan: PlanRow, *, alone: bool) -> Attempt | dict[str, Any]:
        """An attempt, or the status of a row that needs none."""
        sample_id = plan.sample_id
        try:
            exists = ledger.existing(self.folder, sample_id)
            refuse_withdrawn(self.folder, sample_id, plan.names)
            if exists:
                return _status(sample_id, "committed")  # by a worker that died before telling
            attempt = ledger.begin_attempt(
                self.folder,
                sample_id,
                self.name,
                plan.case_id,
                alone=alone,
                lock=self.lock,
                node=this_process(),
            )
        except WithdrawnError as error:
            return _status(sample_id, "failed", str(error))
        except (EngineError, OSError) as error:
            with suppress(OSError):  # a disk that takes no attempt takes no event
                write_event(self.folder.progress, "failed", sample_id)
            unknown = isinstance(error, StoreUnreachableError)
            quarantined = isinstance(error, EngineError) and not unknown
            return _status(sample_id, "quarantined" if quarantined else "failed", str(error))
        write_event(self.folder.progress, "started", sample_id)
        return attempt

    def committed(self, plan: PlanRow) -> dict[str, Any]:
        write_event(self.folder.progress, "committed", plan.sample_id)
        return _status(plan.sample_id, "committed")

    def failed(
        self, plan: PlanRow, attempt: Attempt, error: Exception, work: Work | None
    ) -> dict[str, Any]:
        """Record a failure; what cannot even be recorded (a full disk) is still told.

        Without work, what the row names could not be read: it fails the same way until somebody
        mends it, and then it shall be made, so that no attempt is counted.
        """
        counted = work is not None or not isinstance(error, EngineError)
        message = f"{type(error).__name__}: {error}"
        log.error("%s failed: %s", plan.sample_id, message, exc_info=error)
        status_message = message
        message = without_folders(message, self._folders)
        try:
            if is_withdrawn(plan, read_withdrawn(self.folder)):
                # no record of it is to be left
                return _status(plan.sample_id, "failed", status_message)
            if isinstance(error, SamplerStoppedError) and not attempt.alone:
                ledger.lose(self.folder, attempt, message)
            else:
                ledger.fail(
                    self.folder,
                    attempt,
                    message,
                    fault=fault_of(error),
                    remedy=remedy_of(error),
                    final=isinstance(error, RejectedError),
                    counted=counted,
                )
            write_event(self.folder.progress, "failed", plan.sample_id)
        except OSError as second:
            status_message = f"{status_message} (nor could this be recorded: {second})"
        return _status(plan.sample_id, "failed", status_message)

    def tell_window(self, sample_id: str, done: int, total: int) -> None:
        write_event(self.folder.progress, "window", sample_id, done, total)


class ResampleWorker:
    """Holds the model in one process and makes volumes with it, one at a time."""

    def __init__(self, task: WorkerTask, load: LoadSampler = load_sampler) -> None:
        self._handler = _RowHandler(task, load)

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
        self._handler = _RowHandler(task, load)
        sampler = self._handler.sampler
        many = sampler if isinstance(sampler, ManySampler) else OneByOne(sampler)
        self._sampling = SamplingThread(
            many.sample_many, self._handler.tell_window, self._handler.num_threads
        )
        self._threads = ThreadPoolExecutor(_IO_THREADS, "volumes")
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
            yield _status(plan.sample_id, "failed", str(error))
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


class OneByOne:
    """A sampler of single volumes, dressed as one of many."""

    def __init__(self, sampler: SamplerLike) -> None:
        self._sampler = sampler

    def sample_many(
        self,
        requests: Iterable[SampleRequest | None],
        on_window: Callable[[str, int, int], None] | None = None,
    ) -> Iterator[Outcome]:
        """See `Sampler.sample_many`."""
        pause = threading.Event()
        for request in requests:
            if request is None:
                pause.wait(0.005)
                continue
            name = request.sample_id

            def tell(done: int, total: int, name: str = name) -> None:
                if on_window is not None:
                    on_window(name, done, total)

            try:
                yield Outcome(name, volume=self._sampler.sample(request, tell))
            except SamplingError as error:
                yield Outcome(name, error=error)
            except Exception as error:
                yield Outcome(name, error=SamplingError(f"{type(error).__name__}: {error}"))


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


def _status(sample_id: str, status: str, message: str = "") -> dict[str, Any]:
    return {"sample_id": sample_id, "status": status, "message": message}
