"""Whether a store creates a file once, of several writers: found by trying, before it is used."""

from __future__ import annotations

import uuid

from engine.errors import StoreError
from engine.storage.backends.find import storage_at
from engine.storage.places import Place


def probe(place: Place) -> float | None:
    """Make sure that what is created below a place is created once.

    Returns:
        The store's present time, seconds since 1970; None where it tells none.

    Raises:
        StoreError: the store ignores that something is there already, or cannot be used.
        OSError: the disk cannot be written.
    """
    trial = place / f"probe-{uuid.uuid4().hex}"
    storage = storage_at(trial)
    place.mkdir(parents=True, exist_ok=True)
    try:
        storage.write_new(b"first")
        now = storage.modified_at()
        if storage.write_new(b"second"):
            raise StoreError(
                f"{place.parent}: this store overwrites what a job asks it to create only when "
                "nothing is there (it ignores If-None-Match: *), so that two jobs could write one "
                "volume; use a store or a server version that creates conditionally, or a folder"
            )
    finally:
        trial.unlink(missing_ok=True)
    return now
