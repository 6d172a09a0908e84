"""The lock of a place: of a file on a disk, or of numbered objects in a store."""

from __future__ import annotations

from engine.storage.backends.find import storage_at
from engine.storage.locks.file_lock import FileLock, is_held_across_hosts, recorded_number
from engine.storage.locks.lock import Lock
from engine.storage.locks.object_lock import ObjectLock, numbers_at
from engine.storage.places import Place


def lock_at(place: Place) -> Lock:
    """The lock of a place, not taken yet."""
    path = storage_at(place).local
    return ObjectLock(place) if path is None else FileLock(path)


def last_number(place: Place) -> int:
    """Number of the last holding of a lock; 0 where none is known."""
    path = storage_at(place).local
    return max(numbers_at(place), default=0) if path is None else recorded_number(path)


def binds_other_machines(place: Place) -> bool | None:
    """Whether a lock that a job on another machine holds can be felt on this one.

    Returns:
        None where this cannot be told: the job is on this machine, or there are no locks.
    """
    path = storage_at(place).local
    return None if path is None else is_held_across_hosts(path)
