"""Commit records on a disk: a volume is renamed to its name, then its record is put.

In between, the sample does not exist; a volume under its name without a record is of an attempt
that died, and gives way. What several processes do to one sample is kept apart by a lock of the
sample's folder of attempts.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import StoreError, StoreUnreachableError
from engine.runs.record.folder import RunFolder, refuse_taken_over
from engine.runs.record.ledger.parse import read_record
from engine.runs.record.records import Attempt, Commit
from engine.storage.backends.find import storage_at
from engine.storage.disk_files import sync_folder
from engine.storage.files import discard, put
from engine.storage.locks.folder_lock import hold_folder
from engine.storage.places import Place

_RECORD_END = b"\n}"  # of indented JSON; its inner braces are indented


@dataclass(frozen=True)
class RenamedVolumes:
    """See `CommittedRecords`."""

    folder: RunFolder

    def read(self, sample_id: str) -> Commit | None:
        """See `CommittedRecords.read`."""
        try:
            return read_record(Commit, self.folder.commit(sample_id))
        except FileNotFoundError:
            return None

    def ids(self, *, whole: bool) -> set[str]:
        """By names; `whole` reads each record's last bytes only."""
        commits = _path(self.folder.commits)
        with os.scandir(commits) as entries:
            names = [e.name for e in entries if e.name.endswith(".json") and e.name[0] != "."]
        return {n[:-5] for n in names if not whole or _ends_well(commits / n)}

    def stored(self) -> set[str]:
        """See `CommittedRecords.stored`."""
        ending = self.folder.volume_ending
        names = (path.name.removesuffix(ending) for path in self.folder.volumes.glob(f"*{ending}"))
        return {name for name in names if not name.startswith(".")}

    def open_slot(self, sample_id: str) -> int:
        """There is one."""
        return 0

    def staging_place(self, attempt: Attempt) -> Place:
        """In the folder for it."""
        return self.folder.staging / f"{attempt.sample_id}.{attempt.unique_name}"

    def settle(self, attempt: Attempt, staged: Place, record: Commit) -> Commit:
        """Rename, then put the record; the staged volume of one who was late is thrown away."""
        with hold_folder(_path(self.folder.attempts / record.sample_id)):
            refuse_taken_over(self.folder, attempt.lock)
            return self._rename(_path(staged), record)

    def _rename(self, staged: Path, record: Commit) -> Commit:
        first = self._existing(record.sample_id)
        stale = staged.with_name(f"{staged.name}.stale")
        if first is None:
            final = _path(self.folder.volume(record.sample_id))
            if final.exists() or final.is_symlink():  # of an attempt that died before its record
                final.rename(stale)
            staged.rename(final)
            sync_folder(final.parent)
            put(self.folder.commit(record.sample_id), record.model_dump_json(indent=1))
        for leftover in (staged, stale):
            discard(leftover)
        return first or record

    def _existing(self, sample_id: str) -> Commit | None:
        try:
            return self.read(sample_id)
        except StoreUnreachableError:
            raise
        except StoreError:
            return None  # the next record takes its place

    def delete(self, sample_id: str) -> None:
        """The volume is renamed away under the lock, and deleted after it."""
        staging, attempts = _path(self.folder.staging), _path(self.folder.attempts / sample_id)
        attempts.mkdir(parents=True, exist_ok=True)
        with hold_folder(attempts):
            discard(self.folder.commit(sample_id))  # which may be a folder that somebody made
            volume = _path(self.folder.volume(sample_id))
            if not volume.exists() and not volume.is_symlink():
                return
            staging.mkdir(exist_ok=True)
            away = staging / f"{sample_id}.{uuid.uuid4().hex[:8]}.deleted"
            volume.rename(away)
        discard(away)

    def clear(self, left_behind: Callable[[], set[str]]) -> set[str]:
        """All that is staged, and what killed writers of records left."""
        for leftover in storage_at(self.folder.staging).children():
            discard(leftover)
        for place in (self.folder.root, self.folder.commits):
            for torn in storage_at(place).torn():
                torn.unlink(missing_ok=True)
        return set()


def _path(place: Place) -> Path:
    path = storage_at(place).local
    assert path is not None, "only disks can rename"
    return path


def _ends_well(path: Path) -> bool:
    """Whether a record's last bytes are those that are written last."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_RECORD_END), os.SEEK_END)
            return file.read() == _RECORD_END
    except OSError:
        return False
