"""How a sample comes to exist and ceases to, by what the run's store can do.

Where a folder can be renamed (`renamed.py`), a volume gets its name and then its record. Where
nothing can (`slots.py`), it stays under the name of its attempt, and the record says which that is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.runs.record.folder import RunFolder
from engine.runs.record.ledger.renamed import RenamedVolumes
from engine.runs.record.ledger.slots import SlottedRecords
from engine.runs.record.records import Attempt, Commit
from engine.storage.backends.find import storage_at
from engine.storage.places import Place


class CommittedRecords(Protocol):
    """The commit records of one run."""

    def read(self, sample_id: str) -> Commit | None:
        """The record of a sample, or None when the sample does not exist.

        Raises:
            StoreError: the record is there but cannot be understood.
        """

    def ids(self, *, whole: bool) -> set[str]:
        """Samples that have a record, by the records' names.

        Args:
            whole: leave out records that break off.
        """

    def stored(self) -> set[str]:
        """Samples of which there is a volume, committed or not."""

    def open_slot(self, sample_id: str) -> int:
        """Number of the record that an attempt which begins now may create."""

    def staging_place(self, attempt: Attempt) -> Place:
        """Where this attempt, and no other, writes its volume."""

    def settle(self, attempt: Attempt, staged: Place, record: Commit) -> Commit:
        """Make a staged volume exist; returns the record of whoever was first.

        Raises:
            RunError: another job took the run over.
            StoreError: the volume was swept away meanwhile, or nothing can be written.
        """

    def delete(self, sample_id: str) -> None:
        """Make a sample not exist: its record first, then its volume.

        Raises:
            StoreError: it cannot be deleted.
        """

    def clear(self, left_behind: Callable[[], set[str]]) -> set[str]:
        """Throw away what killed attempts left behind.

        Args:
            left_behind: looks for samples that have attempts and a volume, and no record.

        Returns:
            Samples that a worker on its way committed meanwhile.
        """


def committed_records(folder: RunFolder) -> CommittedRecords:
    """The commit records of a run."""
    return RenamedVolumes(folder) if storage_at(folder.root).can_rename else SlottedRecords(folder)
