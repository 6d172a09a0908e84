"""What workers do with a row before and after sampling: attempts, events, failures, status rows."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from engine.errors import EngineError, StoreUnreachableError, fault_of, remedy_of
from engine.log import get_logger
from engine.parallel.rows.nodes import this_process
from engine.runs.making.progress import write_event
from engine.runs.making.samplers import LoadSampler, refuse_other_weights
from engine.runs.making.sampling_thread import SamplerStoppedError
from engine.runs.making.task import WorkerTask
from engine.runs.making.volume_maker import RejectedError, VolumeMaker, Work
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, try_lock_from_here
from engine.runs.record.names_only import without_folders, worker_name
from engine.runs.record.plan import PlanRow
from engine.runs.record.records import Attempt
from engine.runs.record.withdrawal import (
    WithdrawnError,
    is_withdrawn,
    read_withdrawn,
    refuse_withdrawn,
)
from engine.storage.files import PRIVATE_UMASK

log = get_logger(__name__)


class RowHandler:
    """What both workers do with a row before and after sampling."""

    def __init__(self, task: WorkerTask, load: LoadSampler) -> None:
        import torch  # not at the top: the driver names workers, and shall not load it

        from engine.sampling.networks.precision import own_device

        if task.private:
            os.umask(PRIVATE_UMASK)

        self.num_threads = max(1, min(task.num_threads, os.cpu_count() or 1))
        torch.set_num_threads(self.num_threads)
        device = own_device()
        self.folder = RunFolder(task.root)
        try_lock_from_here(self.folder)
        self.lock = task.lock
        self.volumes = VolumeMaker(task, device)
        self.name = worker_name()
        self._folders = (task.root, task.data, task.weights)
        self.sampler = load(task.weights, task.sampling, device)
        refuse_other_weights(task, self.sampler)

    def begin(self, plan: PlanRow, *, alone: bool) -> Attempt | dict[str, Any]:
        """An attempt, or the status of a row that needs none."""
        sample_id = plan.sample_id
        try:
            exists = ledger.existing(self.folder, sample_id)
            refuse_withdrawn(self.folder, sample_id, plan.names)
            if exists:
                return row_status(sample_id, "committed")  # by a worker that died before telling
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
            return row_status(sample_id, "failed", str(error))
        except (EngineError, OSError) as error:
            with suppress(OSError):  # a disk that takes no attempt takes no event
                write_event(self.folder.progress, "failed", sample_id)
            unknown = isinstance(error, StoreUnreachableError)
            quarantined = isinstance(error, EngineError) and not unknown
            return row_status(sample_id, "quarantined" if quarantined else "failed", str(error))
        write_event(self.folder.progress, "started", sample_id)
        return attempt

    def committed(self, plan: PlanRow) -> dict[str, Any]:
        """The status of a row whose volume exists now."""
        write_event(self.folder.progress, "committed", plan.sample_id)
        return row_status(plan.sample_id, "committed")

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
                return row_status(plan.sample_id, "failed", status_message)
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
        return row_status(plan.sample_id, "failed", status_message)

    def tell_window(self, sample_id: str, done: int, total: int) -> None:
        """Note that a window of a volume is done, of so many."""
        write_event(self.folder.progress, "window", sample_id, done, total)


def row_status(sample_id: str, status: str, message: str = "") -> dict[str, Any]:
    """A status row: "committed", "failed" or "quarantined"."""
    return {"sample_id": sample_id, "status": status, "message": message}
