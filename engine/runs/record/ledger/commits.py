"""What exists in a run: commit records, the volumes that they name, and how they come and go.

Readers believe commit records only. How a volume comes to exist, and ceases to, depends on what the
run's store can do: see `committed.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from engine.errors import StoreError, StoreUnreachableError
from engine.runs.record.folder import RunFolder
from engine.runs.record.ledger.attempts import attempted_ids, put_attempt
from engine.runs.record.ledger.committed import committed_records
from engine.runs.record.records import Attempt, Commit
from engine.runs.record.withdrawal import WithdrawnError, refuse_withdrawn
from engine.storage.files import discard
from engine.storage.places import Place


def read_commit(folder: RunFolder, sample_id: str) -> Commit | None:
    """The commit record of a sample, or None when the sample does not exist.

    Raises:
        StoreError: the record is there but cannot be understood.
    """
    return committed_records(folder).read(sample_id)


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
    return committed_records(folder).ids(whole=whole)


def stored_ids(folder: RunFolder) -> set[str]:
    """Samples of which there is a volume, committed or not."""
    return committed_records(folder).stored()


def read_commits(folder: RunFolder, sample_ids: Iterable[str]) -> dict[str, Commit]:
    """Commit records of those of `sample_ids` that exist, in that order."""
    found = ((sample_id, read_commit(folder, sample_id)) for sample_id in sample_ids)
    return {sample_id: commit for sample_id, commit in found if commit is not None}


def staging_place(folder: RunFolder, attempt: Attempt) -> Place:
    """Where this attempt, and no other, writes its volume."""
    return committed_records(folder).staging_place(attempt)


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
        settled = committed_records(folder).settle(attempt, staged, record)
        refuse_withdrawn(folder, record.sample_id, names)  # listed meanwhile, and maybe looked for
    except WithdrawnError:
        delete(folder, record.sample_id)
        discard(staged)
        discard(folder.attempts / record.sample_id)
        raise
    put_attempt(folder, attempt.model_copy(update={"outcome": "committed"}))
    return settled


def delete(folder: RunFolder, sample_id: str) -> None:
    """Make a sample not exist: its record first, then its volume, on disk or in a store.

    What is cut off in between does not exist. The caller holds the run's lock; a worker of an
    earlier job that commits at the same time is refused, or was first and is deleted, too.

    Raises:
        StoreError: it cannot be deleted.
    """
    committed_records(folder).delete(sample_id)


def clear_staging(folder: RunFolder, committed: Collection[str] | None = None) -> set[str]:
    """Throw away what killed attempts left behind. The caller holds the run's lock.

    Args:
        folder: the run.
        committed: samples that have a commit record; None looks for them.

    Returns:
        Samples that a worker on its way committed meanwhile.
    """

    def left_behind() -> set[str]:
        there = committed_ids(folder) if committed is None else committed
        ours = stored_ids(folder) & attempted_ids(folder)  # what else is there is not a run's
        return ours.difference(there)

    return committed_records(folder).clear(left_behind)
