"""Tries at samples: begun, failed, lost, interrupted, and how many are too many.

An attempt that was begun and neither committed nor failed belongs to a worker that was killed. When
the sample was alone in that worker, this counts as a failure; when others were with it, nobody can
tell which of them did it, so that the attempt is "lost" and the sample is tried alone from then on
(`needs_alone`). When the whole job died (`mark_interrupted`), it is nobody's fault.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Literal

from engine.errors import MORE_MEMORY, Fault, RunError
from engine.parallel.rows.nodes import is_blameless
from engine.runs.record.folder import RunFolder, is_taken_over, refuse_taken_over
from engine.runs.record.ledger.committed import committed_records
from engine.runs.record.ledger.parse import read_record
from engine.runs.record.records import Attempt
from engine.storage.backends.find import storage_at
from engine.storage.files import append, put

MAX_FAILURES = 3
"""A sample that failed this often is quarantined: it is not tried again."""


def attempted_ids(folder: RunFolder) -> set[str]:
    """Samples that were ever tried."""
    return storage_at(folder.attempts).folder_names()


def read_attempts(folder: RunFolder, sample_id: str) -> tuple[Attempt, ...]:
    """All attempts at a sample, oldest first."""
    found = (folder.attempts / sample_id).glob("[0-9]*.json")
    paths = (path for path in found if path.stem.isdecimal())  # not what was copied beside it
    return tuple(sorted((read_record(Attempt, path) for path in paths), key=lambda a: a.number))


def num_failures(folder: RunFolder, sample_id: str) -> int:
    """How often a sample failed or killed its worker (open attempts count).

    A volume that the quality gate refused for good counts as `MAX_FAILURES`.
    """
    attempts = read_attempts(folder, sample_id)
    if any(a.outcome == "rejected" for a in attempts):
        return MAX_FAILURES
    return sum(_counts(a) for a in attempts)


def needs_alone(folder: RunFolder, sample_id: str) -> bool:
    """Whether a worker that tries this sample should hold no other: one with it was killed."""
    attempts = read_attempts(folder, sample_id)
    return any(a.outcome == "lost" or (a.outcome is None and not a.alone) for a in attempts)


def mark_interrupted(folder: RunFolder, sample_ids: Iterable[str]) -> None:
    """Forgive, at a job's start, each sample's last attempt if it is open.

    It was cut off together with the previous job, which is no fault of the sample. The caller holds
    the run's lock.
    """
    for sample_id in sample_ids:
        attempts = read_attempts(folder, sample_id)
        _remove_torn(folder, sample_id)
        if attempts and attempts[-1].outcome is None:
            put_attempt(folder, attempts[-1].model_copy(update={"outcome": "interrupted"}))


def begin_attempt(
    folder: RunFolder,
    sample_id: str,
    worker: str,
    case_id: str = "",
    *,
    alone: bool = True,
    lock: int = 0,
    node: str = "",
    blameless: Callable[[str], bool] = is_blameless,
) -> Attempt:
    """Record on disk that a worker now tries a sample.

    An earlier attempt that is still open belongs to a worker that was killed: it has failed, or is
    lost when it was not alone there.

    Args:
        folder: the run.
        sample_id: of the sample.
        worker: who tries.
        case_id: whose mask.
        alone: whether the worker holds no other sample meanwhile.
        lock: number of the run's lock that the worker's job holds; 0 is unknown.
        node: the worker's process in the cluster (`this_process`); empty is unknown.
        blameless: whether a process ended by no fault of its samples.

    Raises:
        RunError: the sample is quarantined, or another job took the run over.
    """
    refuse_taken_over(folder, lock)
    attempts = _without_blameless(folder, read_attempts(folder, sample_id), blameless)
    _end_killed(folder, attempts)
    failures = num_failures(folder, sample_id)
    if failures >= MAX_FAILURES:
        raise quarantine_error(folder, sample_id, failures)
    number = attempts[-1].number + 1 if attempts else 1
    attempt = Attempt(
        sample_id=sample_id,
        number=number,
        started_at=time.time(),
        worker=worker,
        case_id=case_id,
        alone=alone,
        lock=lock,
        slot=committed_records(folder).open_slot(sample_id),
        node=node,
    )
    (folder.attempts / sample_id).mkdir(exist_ok=True)
    put_attempt(folder, attempt)
    return attempt


def _end_killed(folder: RunFolder, attempts: tuple[Attempt, ...]) -> None:
    """End attempts that are still open: their worker was killed."""
    for earlier in attempts:
        if earlier.outcome is None and earlier.alone:
            error = f"the worker {earlier.worker} was killed, or ran out of memory"
            outcome = _outcome(folder, earlier, "data", final=False, counted=True)
            _record_failure(folder, earlier, error, MORE_MEMORY, outcome, killed=True)
        elif earlier.outcome is None:
            put_attempt(folder, earlier.model_copy(update={"outcome": "lost"}))


def _without_blameless(
    folder: RunFolder, attempts: tuple[Attempt, ...], blameless: Callable[[str], bool]
) -> tuple[Attempt, ...]:
    """Attempts, none held against the sample whose worker went with its computer, or was stopped.

    Asked again for earlier ones: a computer's workers can die before Ray knows that it is gone.
    """
    judged = []
    for attempt in attempts:
        killed = attempt.outcome is None or (attempt.outcome == "failed" and attempt.killed)
        if killed and attempt.node and blameless(attempt.node):
            reason = f"its worker {attempt.worker} was stopped, or its computer left the cluster"
            attempt = attempt.model_copy(update={"outcome": "interrupted", "error": reason})
            put_attempt(folder, attempt)
        judged.append(attempt)
    return tuple(judged)


def quarantine_error(folder: RunFolder, sample_id: str, failures: int) -> RunError:
    """The refusal of a sample that failed too often."""
    return RunError(
        f"{sample_id}: quarantined after {failures} failed attempts (see {folder.failures.name}); "
        f"remove {folder.attempts / sample_id} to have it tried again"
    )


def fail(
    folder: RunFolder,
    attempt: Attempt,
    error: str,
    *,
    fault: Fault = "data",
    remedy: str = "",
    final: bool = False,
    counted: bool = True,
) -> None:
    """Record that an attempt failed, and why.

    A disk or a store that cannot be used, or a job that has lost the run, is no fault of the
    sample: it is written down, and not counted. Nor is what the caller says not to count.

    Args:
        folder: the run.
        attempt: that failed.
        error: what happened.
        fault: where its cause lies (`errors.fault_of`).
        remedy: what to do about it (`errors.remedy_of`); empty is not known.
        final: quarantine the sample at once.
        counted: whether it may be held against the sample.
    """
    _record_failure(
        folder, attempt, error, remedy, _outcome(folder, attempt, fault, final, counted)
    )


def _outcome(
    folder: RunFolder, attempt: Attempt, fault: Fault, final: bool, counted: bool
) -> Literal["failed", "rejected", "interrupted"]:
    no_fault = not counted or fault in ("machine", "store")
    if no_fault or is_taken_over(folder, attempt.lock):
        return "interrupted"
    return "rejected" if final else "failed"


def _record_failure(
    folder: RunFolder,
    attempt: Attempt,
    error: str,
    remedy: str,
    outcome: Literal["failed", "rejected", "interrupted"],
    *,
    killed: bool = False,
) -> None:
    update = {"outcome": outcome, "error": error, "killed": killed}
    put_attempt(folder, attempt.model_copy(update=update))
    line = {
        "sample_id": attempt.sample_id,
        "case": attempt.case_id,
        "attempt": attempt.number,
        "cause": error,
        "remedy": remedy or "see the worker's log; start the job again to have it tried again",
        "worker": attempt.worker,
        "time": round(time.time(), 3),
    }
    append(folder.failures, json.dumps(line, ensure_ascii=False))


def lose(folder: RunFolder, attempt: Attempt, error: str) -> None:
    """Record that an attempt ended by what others in its worker may have done."""
    put_attempt(folder, attempt.model_copy(update={"outcome": "lost", "error": error}))


def _remove_torn(folder: RunFolder, sample_id: str) -> None:
    for place in storage_at(folder.attempts / sample_id).torn():
        place.unlink(missing_ok=True)


def _counts(attempt: Attempt) -> bool:
    """Whether an attempt is held against its sample."""
    return attempt.outcome == "failed" or (attempt.outcome is None and attempt.alone)


def put_attempt(folder: RunFolder, attempt: Attempt) -> None:
    """Write an attempt's record."""
    path = folder.attempts / attempt.sample_id / f"{attempt.number:04d}.json"
    put(path, attempt.model_dump_json())
