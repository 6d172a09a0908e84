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
from collections.abc import Iterable

from engine.errors import StoreError
from engine.runs.record.folder import RunFolder
from engine.runs.record.records import Commit
from engine.storage.checked_files import read_bytes
from engine.storage.objects.path import ObjectPath

_CLAIM = b""
_SLOT = re.compile(r"(.+)\.json(?:\.(\d{4}))?")


def slot_place(folder: RunFolder, sample_id: str, slot: int) -> ObjectPath:
    """Where a sample's record of a slot lies."""
    first = _object(folder.commit(sample_id))
    return first if slot == 0 else first.with_name(f"{first.name}.{slot:04d}")


def recorded_ids(folder: RunFolder) -> set[str]:
    """Samples whose last slot holds a record; one listing."""
    last: dict[str, tuple[int, int]] = {}
    for name, size in _object(folder.commits).sizes().items():
        found = _SLOT.fullmatch(name)
        if found is not None:
            sample_id, slot = found[1], int(found[2] or 0)
            last[sample_id] = max(last.get(sample_id, (-1, 0)), (slot, size))
    return {sample_id for sample_id, (_, size) in last.items() if size}


def read_slot(folder: RunFolder, sample_id: str) -> tuple[int, bytes | None]:
    """The slot in force, and its record's bytes; None where it is still open."""
    slot = 0
    while True:
        try:
            data = read_bytes(slot_place(folder, sample_id, slot))
        except FileNotFoundError:
            return slot, None
        if data != _CLAIM:
            return slot, data
        slot += 1


def settle(folder: RunFolder, staged: ObjectPath, record: Commit, slot: int) -> Commit | None:
    """Create the commit record in an attempt's slot, and delete what other attempts left.

    Args:
        folder: the run.
        staged: the volume, read back and hashed.
        record: what is to be created.
        slot: that was open when the attempt began.

    Returns:
        Our record; None when another attempt was first. Then ours is deleted.

    Raises:
        StoreError: somebody swept the volume away meanwhile, or the store cannot be used.
    """
    # listed before the record: a later attempt that begins after a sweep is never among them
    attempts = list(_object(folder.volume(record.sample_id)).iterdir())
    ours = record.model_copy(update={"volume": staged.name}).sealed()
    place = slot_place(folder, record.sample_id, slot)
    if staged not in attempts:
        raise _swept(staged)
    if not place.write_new(ours.model_dump_json(indent=1).encode()):
        staged.remove_tree()
        if place.read_bytes() == _CLAIM:
            raise _swept(staged)
        return None
    _delete(attempt for attempt in attempts if attempt != staged)
    return ours


def sweep(folder: RunFolder, sample_ids: Iterable[str]) -> set[str]:
    """Delete what attempts left of samples that have no commit record.

    Returns:
        Samples that a worker on its way committed meanwhile: these exist.
    """
    exist = set()
    for sample_id in sample_ids:
        attempts = list(_object(folder.volume(sample_id)).iterdir())
        if _claim(folder, sample_id):
            _delete(attempts)
        else:
            exist.add(sample_id)
    return exist


def delete_sample(folder: RunFolder, sample_id: str) -> None:
    """Make a sample not exist, record or not, and delete every attempt at it.

    Raises:
        StoreError: the store cannot be used.
    """
    attempts = list(_object(folder.volume(sample_id)).iterdir())
    slot, data = read_slot(folder, sample_id)
    while data is None and not _claim(folder, sample_id):
        slot, data = read_slot(folder, sample_id)
    if data is not None:
        slot_place(folder, sample_id, slot).write_bytes(_CLAIM)  # taken: nobody creates it any more
    _delete(attempts)


def _claim(folder: RunFolder, sample_id: str) -> bool:
    """Close the open slot; False when it holds a record."""
    while True:
        slot, data = read_slot(folder, sample_id)
        if data is not None:
            return False
        if slot_place(folder, sample_id, slot).write_new(_CLAIM):
            return True


def _delete(attempts: Iterable[ObjectPath]) -> None:
    for attempt in attempts:
        attempt.remove_tree()


def _swept(staged: ObjectPath) -> StoreError:
    return StoreError(f"{staged}: swept away by another job; start that job again")


def _object(place: object) -> ObjectPath:
    assert isinstance(place, ObjectPath)
    return place
