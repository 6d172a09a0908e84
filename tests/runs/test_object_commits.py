"""Commits, sweeps and deletions at one time in an object store, at every step of each other.

Whatever the order, a sample that is counted has its whole volume, and one that is not can be made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import pytest

from engine.errors import RunError, StoreError
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_number, lock_run
from engine.runs.record.ledger.slots import SlottedRecords
from engine.runs.record.records import Attempt
from engine.storage.objects import client
from engine.storage.objects import path as object_path
from engine.storage.objects.path import ObjectPath
from engine.volumes.store import hash_tree
from tests.runs.test_histories import record

NAME = "case0-r00"


@pytest.fixture
def folder() -> Iterator[RunFolder]:
    root = ObjectPath("memory://commits/run")
    root.remove_tree()
    yield RunFolder(root)
    root.remove_tree()


class Step:
    """Does something once, before the store's call of a number."""

    def __init__(self, due: int, action: Callable[[], object]) -> None:
        self.due, self.action, self.seen = due, action, 0

    def call(self, url: str, work: Callable[[object], object]) -> object:
        self.seen += 1
        if self.seen == self.due + 1:
            self.action()
        return real_call(url, work)


real_call = client.call


def begun(folder: RunFolder, lock: int = 0) -> tuple[Attempt, ObjectPath]:
    """An attempt whose volume is stored and not yet committed."""
    ledger.mark_interrupted(folder, [NAME])  # the job before ended: no attempt is held against it
    attempt = ledger.begin_attempt(folder, NAME, "w", lock=lock)
    staged = ledger.staging_place(folder, attempt)
    assert isinstance(staged, ObjectPath)
    for name in ("zarr.json", "0/c/0/0/0"):
        (staged / name).write_bytes(f"{name} of attempt {attempt.number}".encode())
    return attempt, staged


def commit(folder: RunFolder, begun: tuple[Attempt, ObjectPath]) -> str:
    """Commit it; returns what went wrong."""
    attempt, staged = begun
    try:
        ledger.commit(folder, attempt, staged, hash_tree, lambda files: record(NAME, files))
    except (StoreError, RunError) as error:
        return str(error)
    return ""


def is_whole(folder: RunFolder) -> bool:
    """Whether the sample exists; then its volume must be as its record says."""
    exists = NAME in ledger.committed_ids(folder)
    found = ledger.read_commit(folder, NAME)
    assert exists == (found is not None)
    if found is not None:
        assert hash_tree(ledger.volume_of(folder, found)) == found.files
    return exists


def make_rest(folder: RunFolder) -> None:
    """Another job: sweep, and make what is missing."""
    ledger.clear_staging(folder)
    if not is_whole(folder):
        assert commit(folder, begun(folder)) == ""
    assert is_whole(folder)


Act = Callable[[RunFolder], object]
ACTS: dict[str, Act] = {
    "sweep": ledger.clear_staging,
    "delete": lambda folder: ledger.delete(folder, NAME),
    "a second attempt": lambda folder: commit(folder, begun(folder)),
    "a whole other job": make_rest,
}


@pytest.mark.parametrize("act", ACTS)
def test_whatever_happens_between_two_steps_of_a_commit(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    for due in count():
        folder.root.remove_tree()  # type: ignore[union-attr]
        orphan = begun(folder)
        step = Step(due, lambda: ACTS[act](folder))
        with monkeypatch.context() as patch:
            patch.setattr(object_path, "call", step.call)
            message = commit(folder, orphan)
        if step.seen <= due:
            assert due > 5, "the commit took no steps"
            break
        if message:
            assert any(s in message for s in ("swept away", "no files there", "vanished")), message
        assert is_whole(folder) or message or act == "delete"
        make_rest(folder)


def _commit_and_tell(
    message: list[str], folder: RunFolder, orphan: tuple[Attempt, ObjectPath]
) -> None:
    message.append(commit(folder, orphan))


@pytest.mark.parametrize("act", ["sweep", "delete"])
def test_a_commit_between_two_steps_of_who_deletes(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The orphan wins, and is counted, or fails cleanly: never a record without its volume."""
    outcomes = set()
    for due in count():
        folder.root.remove_tree()  # type: ignore[union-attr]
        orphan, message = begun(folder), list[str]()
        step = Step(due, partial(_commit_and_tell, message, folder, orphan))
        with monkeypatch.context() as patch:
            patch.setattr(object_path, "call", step.call)
            ACTS[act](folder)
        if step.seen <= due:
            break
        assert is_whole(folder) == (message == [""]) or act == "delete"
        outcomes.add(is_whole(folder))
        make_rest(folder)
    assert outcomes == ({True, False} if act == "sweep" else {False})


def test_a_sample_that_is_committed_during_the_sweep_is_counted(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = begun(folder)
    stored = SlottedRecords.stored

    def meanwhile(records: SlottedRecords) -> set[str]:
        found = stored(records)
        assert commit(folder, orphan) == ""
        return found

    with monkeypatch.context() as patch:
        patch.setattr(SlottedRecords, "stored", meanwhile)
        assert ledger.clear_staging(folder) == {NAME}
    assert is_whole(folder)


def test_claims_pile_up_in_slots_and_count_as_nothing(folder: RunFolder) -> None:
    for number in range(3):
        begun(folder)
        ledger.clear_staging(folder)
        assert SlottedRecords(folder).slot_place(NAME, number).read_bytes() == b""
        assert ledger.committed_ids(folder) == set()
        assert not is_whole(folder)
    make_rest(folder)
    assert SlottedRecords(folder).slot_place(NAME, 3).read_bytes() != b""
    ledger.delete(folder, NAME)
    assert not is_whole(folder)
    assert ledger.stored_ids(folder) == set()
    make_rest(folder)


def test_names_with_dots_and_digits_keep_apart(folder: RunFolder) -> None:
    names = {"a", "a.json.0001", "a.json", "a.0001"}
    for name in names:
        (folder.commits / f"{name}.json").write_text("{}")
    assert ledger.committed_ids(folder) == names
    SlottedRecords(folder).slot_place("a", 1).write_bytes(b"")
    assert ledger.committed_ids(folder) == names - {"a"}


@pytest.mark.parametrize("kind", ["disk", "store"])
def test_a_worker_of_a_job_that_lost_the_run_commits_nothing(
    folder: RunFolder, kind: str, tmp_path: object
) -> None:
    if kind == "disk":
        folder = RunFolder(tmp_path / "run")  # type: ignore[operator]
        folder.create()
    with lock_run(folder) as lock:
        first = lock.number
        assert lock_number(folder) == first
    attempt = ledger.begin_attempt(folder, NAME, "orphan", lock=first)
    staged = ledger.staging_place(folder, attempt)
    staged.mkdir()
    (staged / "zarr.json").write_text("of the orphan")
    with lock_run(folder) as lock:
        assert lock.number == first + 1
    with pytest.raises(RunError, match="another job took this run over"):
        ledger.commit(folder, attempt, staged, hash_tree, lambda files: record(NAME, files))
    with pytest.raises(RunError, match="another job took this run over"):
        ledger.begin_attempt(folder, NAME, "orphan", lock=first)
    ledger.fail(folder, attempt, "whatever it met after that")
    assert ledger.num_failures(folder, NAME) == 0, "held against nobody"
    assert ledger.committed_ids(folder) == set()
    late = ledger.begin_attempt(folder, NAME, "w", lock=first + 1)
    staged = ledger.staging_place(folder, late)
    staged.mkdir()
    (staged / "zarr.json").write_text("of the new job")
    made = ledger.commit(folder, late, staged, hash_tree, lambda files: record(NAME, files))
    assert made.lock == first + 1
