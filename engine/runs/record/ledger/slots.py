"""Commit records in an object store, where nothing can be renamed, appended to or locked.

A sample's record lies in one of its slots: `commits/ID.json`, then `commits/ID.json.0001`, and so
on. A slot is only ever created, conditionally, by one of several who try: as a record, or empty,
which is a claim. Who deletes attempts at a sample claims its open slot first. An attempt belongs to
the slot that was open when it began, so that one whose objects were deleted finds its slot taken
and fails; it cannot come to exist without its volume. The sample exists when its last slot holds a
record. All of this needs no clock and no lock, and holds for workers of a job that is long dead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.errors import StoreError
from engine.runs.record.folder import RunFolder, refuse_taken_over
from engine.runs.record.ledger.parse import read_record
from engine.runs.record.records import Attempt, Commit
from engine.storage.backends.find import storage_at
from engine.storage.checked_files import read_bytes
from engine.storage.files import discard
from engine.storage.places import Place

_CLAIM = b""
_SLOT = re.compile(r"(.+)\.json(?:\.(\d{4}))?")


@dataclass(frozen=True)
class SlottedRecords:
    """See `CommittedRecords`."""

    folder: RunFolder

    def slot_place(self, sample_id: str, slot: int) -> Place:
        """Where a sample's record of a slot lies."""
        first = self.folder.commit(sample_id)
        return first if slot == 0 else first.with_name(f"{first.name}.{slot:04d}")

    def read_slot(self, sample_id: str) -> tuple[int, bytes | None]:
        """The slot in force, and its record's bytes; None where it is still open."""
        slot = 0
        while True:
            try:
                data = read_bytes(self.slot_place(sample_id, slot))
            except FileNotFoundError:
                return slot, None
            if data != _CLAIM:
                return slot, data
            slot += 1

    def read(self, sample_id: str) -> Commit | None:
        """The record of the last slot."""
        slot, data = self.read_slot(sample_id)
        return None if data is None else read_record(Commit, self.slot_place(sample_id, slot), data)

    def ids(self, *, whole: bool) -> set[str]:
        """Samples whose last slot holds a record; one listing. Records are put whole."""
        last: dict[str, tuple[int, int]] = {}
        for name, size in storage_at(self.folder.commits).sizes().items():
            found = _SLOT.fullmatch(name)
            if found is not None:
                sample_id, slot = found[1], int(found[2] or 0)
                last[sample_id] = max(last.get(sample_id, (-1, 0)), (slot, size))
        return {sample_id for sample_id, (_, size) in last.items() if size}

    def stored(self) -> set[str]:
        """See `CommittedRecords.stored`."""
        names = (place.name for place in storage_at(self.folder.volumes).children())
        return {name for name in names if not name.startswith(".")}

    def open_slot(self, sample_id: str) -> int:
        """See `CommittedRecords.open_slot`."""
        return self.read_slot(sample_id)[0]

    def staging_place(self, attempt: Attempt) -> Place:
        """Where it stays, when it is committed."""
        return self.folder.volume(attempt.sample_id) / attempt.unique_name

    def settle(self, attempt: Attempt, staged: Place, record: Commit) -> Commit:
        """Create the record in the attempt's slot, and delete what other attempts left."""
        refuse_taken_over(self.folder, attempt.lock)
        ours = self._create(staged, record, attempt.slot)
        return ours or self.read(record.sample_id) or record

    def _create(self, staged: Place, record: Commit, slot: int) -> Commit | None:
        """Our record; None when another attempt was first. Then our volume is deleted."""
        # listed before the record: a later attempt that begins after a sweep is never among them
        attempts = self._attempts(record.sample_id)
        ours = record.model_copy(update={"volume": staged.name}).sealed()
        place = self.slot_place(record.sample_id, slot)
        if staged not in attempts:
            raise _swept(staged)
        if not storage_at(place).write_new(ours.model_dump_json(indent=1).encode()):
            discard(staged)
            if read_bytes(place) == _CLAIM:
                raise _swept(staged)
            return None
        _delete(attempt for attempt in attempts if attempt != staged)
        return ours

    def delete(self, sample_id: str) -> None:
        """Record or not, and every attempt at it."""
        attempts = self._attempts(sample_id)
        slot, data = self.read_slot(sample_id)
        while data is None and not self._claim(sample_id):
            slot, data = self.read_slot(sample_id)
        if data is not None:  # taken: nobody creates it any more
            storage_at(self.slot_place(sample_id, slot)).put(_CLAIM)
        _delete(attempts)

    def clear(self, left_behind: Callable[[], set[str]]) -> set[str]:
        """Delete what attempts left of samples that have no record."""
        exist = set()
        for sample_id in sorted(left_behind()):
            attempts = self._attempts(sample_id)
            if self._claim(sample_id):
                _delete(attempts)
            else:
                exist.add(sample_id)
        return exist

    def _attempts(self, sample_id: str) -> list[Place]:
        return storage_at(self.folder.volume(sample_id)).children()

    def _claim(self, sample_id: str) -> bool:
        """Close the open slot; False when it holds a record."""
        while True:
            slot, data = self.read_slot(sample_id)
            if data is not None:
                return False
            if storage_at(self.slot_place(sample_id, slot)).write_new(_CLAIM):
                return True


def _delete(attempts: Iterable[Place]) -> None:
    for attempt in attempts:
        discard(attempt)


def _swept(staged: Place) -> StoreError:
    return StoreError(f"{staged}: swept away by another job; start that job again", fault="store")
