"""The end of the commit protocol in an object store, where nothing can be renamed or appended to.

A volume stays under its attempt's own name; its commit record is created last and names it. Of
several attempts the one whose record is there first succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.errors import StoreError
from engine.runs.folder import RunFolder
from engine.runs.records import Commit
from engine.storage.object_path import ObjectPath


def settle(
    folder: RunFolder,
    staged: ObjectPath,
    record: Commit,
    existing: Callable[[RunFolder, str], Commit | None],
) -> Commit:
    """Create the commit record, and delete what other attempts left.

    Args:
        folder: the run.
        staged: the volume, read back and hashed.
        record: what is to be created.
        existing: finds the record of another attempt; one that cannot be understood is replaced.

    Returns:
        The record that counts: ours, or that of the attempt that was first.

    Raises:
        StoreError: a new job swept the volume away meanwhile, or the store cannot be used.
    """
    ours = record.model_copy(update={"volume": staged.name}).sealed()
    data, place = ours.model_dump_json(indent=1).encode(), _object(folder.commit(record.sample_id))
    settled = ours
    if not place.write_new(data):
        settled = existing(folder, record.sample_id) or ours
        if settled is ours:
            place.write_bytes(data)
    if settled is ours and not staged.is_dir():
        place.unlink(missing_ok=True)
        raise StoreError(f"{staged}: swept away by another job; start that job again")
    for attempt in _object(folder.volume(record.sample_id)).iterdir():
        if attempt.name != settled.volume:
            attempt.remove_tree()
    return settled


def sweep(folder: RunFolder, sample_ids: Iterable[str]) -> None:
    """Delete what attempts left of samples that have no commit record."""
    for sample_id in sample_ids:
        if not folder.commit(sample_id).exists():  # by a worker that is still on its way
            _object(folder.volume(sample_id)).remove_tree()


def _object(place: object) -> ObjectPath:
    assert isinstance(place, ObjectPath)
    return place
