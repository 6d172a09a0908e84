"""The storage of a place. The one function that asks of which kind a place is."""

from __future__ import annotations

from pathlib import Path

from engine.storage.backends.local import LocalStorage
from engine.storage.backends.objects import ObjectStorage
from engine.storage.backends.protocol import Storage
from engine.storage.places import Place


def storage_at(place: Place) -> Storage:
    """What can be done with a place.

    >>> storage_at(Path("runs/mine")).can_rename
    True
    """
    return LocalStorage(place) if isinstance(place, Path) else ObjectStorage(place)
