"""Objects that only one of several writers creates, and the store's own clock.

A store that cannot create conditionally is found by trying, before anything is trusted to it.
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from engine.errors import StoreError
from engine.storage.objects.path import ObjectPath
from engine.storage.places import Place

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write_new(place: Place, data: bytes) -> bool:
    """Create an object or a file, whole; of several writers one succeeds.

    Returns:
        False when there was one with other bytes.

    Raises:
        StoreError: the store cannot be used.
        OSError: the disk cannot be written.
    """
    if isinstance(place, ObjectPath):
        return place.write_new(data)
    staged = _staged(place, data)
    try:
        os.link(staged, place)
    except FileExistsError:
        return place.read_bytes() == data
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _created(place, data)
    finally:
        staged.unlink(missing_ok=True)
    return True


def put_whole(place: Place, data: bytes) -> None:
    """Replace an object or a file: readers see the old one or the new one."""
    if isinstance(place, ObjectPath):
        place.write_bytes(data)
    else:
        _staged(place, data).replace(place)


def modified_at(place: Place) -> float | None:
    """When an object or a file was written, by the clock of its store; None where none is told.

    Raises:
        FileNotFoundError: it is not there.
    """
    if isinstance(place, Path):
        return place.stat().st_mtime
    return place.modified_at()


def probe(place: Place) -> float | None:
    """Make sure that what is created below a place is created once.

    Returns:
        The store's present time, seconds since 1970; None where it tells none.

    Raises:
        StoreError: the store ignores that something is there already, or cannot be used.
        OSError: the disk cannot be written.
    """
    trial = place / f"probe-{uuid.uuid4().hex}"
    place.mkdir(parents=True, exist_ok=True)
    try:
        write_new(trial, b"first")
        now = modified_at(trial)
        if write_new(trial, b"second"):
            raise StoreError(
                f"{place.parent}: this store overwrites what a job asks it to create only when "
                "nothing is there (it ignores If-None-Match: *), so that two jobs could write one "
                "volume; use a store or a server version that creates conditionally, or a folder"
            )
    finally:
        trial.unlink(missing_ok=True)
    return now


def _created(place: Path, data: bytes) -> bool:
    """`write_new` where the file system has no hard links."""
    try:
        with place.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return place.read_bytes() == data
    return True


def _staged(place: Path, data: bytes) -> Path:
    staged = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with staged.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return staged
