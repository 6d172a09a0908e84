"""The ledger of a run: which samples exist (commits), were tried (attempts), are quarantined.

A sample's life: `begin_attempt` -> the worker stages its volume -> `commit` (rename, then the
commit record) or `fail`. In an object store, where nothing can be renamed, a volume stays under its
attempt-unique name, and the commit record says which attempt's it is. Readers believe commit
records only. An attempt that was begun and neither committed nor failed belongs to a worker that
was killed. When the sample was alone in that worker, this counts as a failure; when others were
with it, nobody can tell which of them did it, so that the attempt is "lost" and the sample is tried
alone from then on (`needs_alone`). When the whole job died (`mark_interrupted`), it is nobody's
fault. Knows nothing of Ray, models or what a volume is.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from engine.errors import RunError, StoreError, StoreUnreachableError
from engine.parallel.rows.nodes import is_blameless
from engine.runs.record.folder import RunFolder, lock_number
from engine.runs.record.object_commits import (
    delete_sample,
    read_slot,
    recorded_ids,
    settle,
    slot_place,
    sweep,
)
from engine.runs.record.records import Attempt, Commit
from engine.runs.record.withdrawal import WithdrawnError, refuse_withdrawn
from engine.storage.checked_files import parse_model, read_bytes
from engine.storage.disk_files import sync_folder
from engine.storage.files import append, discard, put
from engine.storage.locks.folder_lock import hold_folder
from engine.storage.objects.path import ObjectPath
from engine.storage.places import Place

_DISK_FAULTS = (
    "No space left", "Disk quota exceeded", "Read-only file system", "Permission denied"
)  # fmt: skip
_MACHINE_FAULTS = (
    "Input/output error", "Stale file handle", "Transport endpoint", "Too many open files"
)  # fmt: skip
_STORE_FAULTS = ("object store does not answer", "no credentials for", "the store refuses")
_OTHER_JOBS = ("took this run over", "swept away by another job")
_NO_FAULT = (*_DISK_FAULTS, *_MACHINE_FAULTS, *_STORE_FAULTS, *_OTHER_JOBS)
_RECORD_END = b"\n}"  # of indented JSON; its inner braces are indented
_KILLED = "was killed"
MAX_FAILURES = 3
"""A sample that failed this often is quarantined: it is not tried again."""


R = TypeVar("R", Commit, Attempt)


def read_commit(folder: RunFolder, sample_id: str) -> Commit | None:
    """The commit record of a sample, or None when the sample does not exist.

    Raises:
        StoreError: the record is there but cannot be understood.
    """
    if isinstance(folder.commits, ObjectPath):
        slot, data = read_slot(folder, sample_id)
        if data is None:
            return None
        return _parse(Commit, slot_place(folder, sample_id, slot), lambda: data)
    try:
        return _read(Commit, folder.commit(sample_id))
    except FileNotFoundError:
        return None


def existing(folder: RunFolder, sample_id: str) -> Commit | None:
    """`read_commit`, but a record that cannot be understood counts as none.

    Raises:
        StoreUnreachableError: nobody can tell.
    """
    try:
        return read_commit(folder, sample_id)
    except StoreUnreachableError:
        raise
    except StoreError:
        return None


def volume_of(folder: RunFolder, commit: Commit) -> Place:
    """Where a committed volume lies."""
    if not commit.volume:
        return folder.volume(commit.sample_id)
    return folder.volume(commit.sample_id) / commit.volume


def committed_ids(folder: RunFolder, *, whole: bool = False) -> set[str]:
    """Samples that have a commit record, by the records' names.

    Args:
        folder: the run.
        whole: leave out records that break off; reads their last bytes only. (Those of an object
            store do not break off: they are put whole.)
    """
    if isinstance(folder.commits, ObjectPath):
        return recorded_ids(folder)
    with os.scandir(folder.commits) as entries:
        names = [e.name for e in entries if e.name.endswith(".json") and e.name[0] != "."]
    return {n[:-5] for n in names if not whole or _ends_well(Path(folder.commits, n))}


def _ends_well(path: Path) -> bool:
    """Whether a record's last bytes are those that `commit` writes last."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_RECORD_END), os.SEEK_END)
            return file.read() == _RECORD_END
    except OSError:
        return False


def attempted_ids(folder: RunFolder) -> set[str]:
    """Samples that were ever tried."""
    if isinstance(folder.attempts, ObjectPath):
        return {place.name for place in folder.attempts.iterdir()}
    with os.scandir(folder.attempts) as entries:
        return {e.name for e in entries if e.is_dir()}


def stored_ids(folder: RunFolder) -> set[str]:
    """Samples of which there is a volume, committed or not."""
    if isinstance(folder.volumes, ObjectPath):
        names = (place.name for place in folder.volumes.iterdir())
    else:
        names = (p.name.removesuffix(".ome.zarr") for p in folder.volumes.glob("*.ome.zarr"))
    return {name for name in names if not name.startswith(".")}


def read_commits(folder: RunFolder, sample_ids: Iterable[str]) -> dict[str, Commit]:
    """Commit records of those of `sample_ids` that exist, in that order."""
    found = ((sample_id, read_commit(folder, sample_id)) for sample_id in sample_ids)
    return {sample_id: commit for sample_id, commit in found if commit is not None}


def read_attempts(folder: RunFolder, sample_id: str) -> tuple[Attempt, ...]:
    """All attempts at a sample, oldest first."""
    found = (folder.attempts / sample_id).glob("[0-9]*.json")
    paths = (path for path in found if path.stem.isdecimal())  # not what was copied beside it
    return tuple(sorted((_read(Attempt, path) for path in paths), key=lambda a: a.number))


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
        _remove_torn(folder.attempts / sample_id)
        if attempts and attempts[-1].outcome is None:
            _put_attempt(folder, attempts[-1].model_copy(update={"outcome": "interrupted"}))


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
    for earlier in attempts:
        if earlier.outcome is None and earlier.alone:
            fail(folder, earlier, f"the worker {earlier.worker} {_KILLED}, or ran out of memory")
        elif earlier.outcome is None:
            _put_attempt(folder, earlier.model_copy(update={"outcome": "lost"}))
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
        slot=read_slot(folder, sample_id)[0] if isinstance(folder.root, ObjectPath) else 0,
        node=node,
    )
    (folder.attempts / sample_id).mkdir(exist_ok=True)
    _put_attempt(folder, attempt)
    return attempt


def _without_blameless(
    folder: RunFolder, attempts: tuple[Attempt, ...], blameless: Callable[[str], bool]
) -> tuple[Attempt, ...]:
    """Attempts, none held against the sample whose worker went with its computer, or was stopped.

    Asked again for earlier ones: a computer's workers can die before Ray knows that it is gone.
    """
    judged = []
    for attempt in attempts:
        killed = attempt.outcome is None or (
            attempt.outcome == "failed" and _KILLED in str(attempt.error)
        )
        if killed and attempt.node and blameless(attempt.node):
            reason = f"its worker {attempt.worker} was stopped, or its computer left the cluster"
            attempt = attempt.model_copy(update={"outcome": "interrupted", "error": reason})
            _put_attempt(folder, attempt)
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
    final: bool = False,
    counted: bool = True,
) -> None:
    """Record that an attempt failed, and why; `final` quarantines the sample at once.

    A full or read-only disk, a store that is gone, or a job that has lost the run, is no fault of
    the sample: it is told, and not counted. Nor is what the caller says not to count.
    """
    outcome: Literal["failed", "rejected", "interrupted"] = "rejected" if final else "failed"
    no_fault = not counted or any(sign in error for sign in _NO_FAULT)
    if no_fault or _is_taken_over(folder, attempt.lock):
        outcome = "interrupted"
    _put_attempt(folder, attempt.model_copy(update={"outcome": outcome, "error": error}))
    line = {
        "sample_id": attempt.sample_id,
        "case": attempt.case_id,
        "attempt": attempt.number,
        "cause": error,
        "remedy": remedy_of(error, final),
        "worker": attempt.worker,
        "time": round(time.time(), 3),
    }
    append(folder.failures, json.dumps(line, ensure_ascii=False))


def lose(folder: RunFolder, attempt: Attempt, error: str) -> None:
    """Record that an attempt ended by what others in its worker may have done."""
    _put_attempt(folder, attempt.model_copy(update={"outcome": "lost", "error": error}))


def remedy_of(error: str, final: bool = False) -> str:
    """What a person can do about a failure; most messages say it themselves, after their `;`."""
    if final:
        return "try quality.policy mark to keep such volumes, another informed slice, or a new seed"
    if "was killed" in error or "out of memory" in error.lower():
        return "give workers more memory, or lower sampling.memory_mb, decode_batch or rows_at_once"
    if any(sign in error for sign in _DISK_FAULTS):
        return "free disk space, or make the run folder writable, and start the job again"
    if any(sign in error for sign in _MACHINE_FAULTS):
        return "look at that computer's disks, mounts and limits, and start the job again"
    _, found, remedy = error.rpartition("; ")
    return remedy if found else "see the worker's log; start the job again to have it tried again"


def staging_place(folder: RunFolder, attempt: Attempt) -> Place:
    """Where this attempt, and no other, writes its volume."""
    unique = f"{attempt.number}.{int(attempt.started_at * 1e6):x}.ome.zarr"
    if isinstance(folder.root, ObjectPath):
        return folder.volume(attempt.sample_id) / unique
    return folder.staging / f"{attempt.sample_id}.{unique}"


def commit(
    folder: RunFolder,
    attempt: Attempt,
    staged: Place,
    hash_files: Callable[[Place], Mapping[str, str]],
    make_record: Callable[[dict[str, str]], Commit],
) -> Commit:
    """Turn a staged volume into an existing one: re-read and hash, rename, record.

    Args:
        folder: the run.
        attempt: whose volume it is.
        staged: the volume under its attempt-unique name, flushed by its writer.
        hash_files: re-reads the volume; returns sha256 by relative file name.
        make_record: builds the commit record from these hashes.

    Returns:
        The record. When another attempt committed the sample first, its record; the staged volume
        is then thrown away.

    Raises:
        RunError: another job took the run over: it makes the rest.
        WithdrawnError: a withdrawn case is part of it; the volume is deleted.
        StoreError: the volume was swept away or cannot be read, or nothing can be written.
    """
    record = make_record(dict(hash_files(staged)))
    record = record.model_copy(update={"lock": attempt.lock}).sealed()
    names = (record.case_id, record.informed_case)
    try:
        refuse_withdrawn(folder, record.sample_id, names)
        settled = _settle(folder, attempt, staged, record)
        refuse_withdrawn(folder, record.sample_id, names)  # listed meanwhile, and maybe looked for
    except WithdrawnError:
        delete(folder, record.sample_id)
        discard(staged)
        discard(folder.attempts / record.sample_id)
        raise
    _put_attempt(folder, attempt.model_copy(update={"outcome": "committed"}))
    return settled


def _settle(folder: RunFolder, attempt: Attempt, staged: Place, record: Commit) -> Commit:
    if isinstance(staged, ObjectPath):
        refuse_taken_over(folder, attempt.lock)
        settled = settle(folder, staged, record, attempt.slot)
        return settled or read_commit(folder, record.sample_id) or record
    with hold_folder(Path(str(folder.attempts / record.sample_id))):
        refuse_taken_over(folder, attempt.lock)
        return _settle_on_disk(folder, staged, record)


def _settle_on_disk(folder: RunFolder, staged: Path, record: Commit) -> Commit:
    first = existing(folder, record.sample_id)
    stale = staged.with_name(f"{staged.name}.stale")
    if first is None:
        final = Path(str(folder.volume(record.sample_id)))
        if final.exists() or final.is_symlink():  # of an attempt that died before its record
            final.rename(stale)
        staged.rename(final)
        sync_folder(final.parent)
        put(folder.commit(record.sample_id), record.model_dump_json(indent=1))
    for leftover in (staged, stale):
        discard(leftover)
    return first or record


def delete(folder: RunFolder, sample_id: str) -> None:
    """Make a sample not exist: its record first, then its volume, on disk or in a store.

    What is cut off in between does not exist. The caller holds the run's lock; a worker of an
    earlier job that commits at the same time is refused, or was first and is deleted, too.

    Raises:
        StoreError: it cannot be deleted.
    """
    if isinstance(folder.root, ObjectPath):
        delete_sample(folder, sample_id)
        return
    assert isinstance(folder.attempts, Path)
    assert isinstance(folder.staging, Path)
    (folder.attempts / sample_id).mkdir(parents=True, exist_ok=True)
    with hold_folder(folder.attempts / sample_id):
        discard(folder.commit(sample_id))  # which may be a folder that somebody made
        volume = Path(str(folder.volume(sample_id)))
        if not volume.exists() and not volume.is_symlink():
            return
        folder.staging.mkdir(exist_ok=True)
        away = folder.staging / f"{sample_id}.{uuid.uuid4().hex[:8]}.deleted"
        volume.rename(away)
    discard(away)


def refuse_taken_over(folder: RunFolder, lock: int) -> None:
    """Refuse to work on for a job that has lost the run.

    Args:
        folder: the run.
        lock: number of the lock that the job held; 0 is unknown, which is never refused.

    Raises:
        RunError: the run's lock has a higher number by now.
    """
    if _is_taken_over(folder, lock):
        raise RunError(
            f"{folder.root}: another job took this run over; what is committed stays, and that job "
            "makes the rest: wait for it"
        )


def _is_taken_over(folder: RunFolder, lock: int) -> bool:
    return bool(lock) and lock_number(folder) > lock


def clear_staging(folder: RunFolder, committed: Collection[str] | None = None) -> set[str]:
    """Throw away what killed attempts left behind. The caller holds the run's lock.

    Args:
        folder: the run.
        committed: samples that have a commit record; None looks for them.

    Returns:
        Samples that a worker on its way committed meanwhile.
    """
    if isinstance(folder.root, ObjectPath):
        there = committed_ids(folder) if committed is None else committed
        ours = stored_ids(folder) & attempted_ids(folder)  # what else is there is not a run's
        return sweep(folder, sorted(ours.difference(there)))
    for leftover in folder.staging.iterdir():
        discard(leftover)
    for place in (folder.root, folder.commits):
        _remove_torn(place)
    return set()


def _remove_torn(place: Place) -> None:
    """Remove what a `put` that was killed left in a folder; stores have no such things."""
    if isinstance(place, Path):
        for torn in place.glob(".*.tmp"):
            torn.unlink(missing_ok=True)


def _counts(attempt: Attempt) -> bool:
    """Whether an attempt is held against its sample."""
    return attempt.outcome == "failed" or (attempt.outcome is None and attempt.alone)


def _put_attempt(folder: RunFolder, attempt: Attempt) -> None:
    path = folder.attempts / attempt.sample_id / f"{attempt.number:04d}.json"
    put(path, attempt.model_dump_json())


def _read(kind: type[R], path: Place) -> R:
    return _parse(kind, path, lambda: read_bytes(path))


def _parse(kind: type[R], path: Place, read: Callable[[], bytes]) -> R:
    try:
        return parse_model(kind, path, read())
    except (FileNotFoundError, StoreUnreachableError):
        raise
    except OSError as error:
        reason = error.strerror or str(error).removeprefix(f"{path}: ")
        raise StoreError(
            f"{path}: cannot read this {kind.__name__.lower()} record ({reason}); "
            "remove it, and the next run makes the sample anew"
        ) from None
