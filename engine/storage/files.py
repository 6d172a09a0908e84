"""The everyday calls on one file, on a disk or in an object store (see `backends/protocol.py`).

Knows no run: what the files mean is their writers' business.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

from engine.storage.backends.find import storage_at
from engine.storage.disk_files import STAGED
from engine.storage.places import Place

PRIVATE_UMASK = 0o077
"""For processes whose files only their user may read (modes 0600 and 0700)."""


def put(path: Place, text: str) -> None:
    """Write a whole file; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text)


def whole_file(path: Place) -> AbstractContextManager[TextIO]:
    """A file to write, so that readers see the old one or the new one, also after a power cut."""
    return storage_at(path).whole_file()


def append(path: Place, line: str) -> None:
    """Add one line in a single write, so that lines of several processes do not mix.

    In an object store, where nothing can be added to, each line is an object of its own until
    `gather` puts them together.

    Raises:
        OSError: the file cannot be written, or is a link or no regular file.
    """
    storage_at(path).append(line)


def gather(path: Place) -> None:
    """Make one file of the lines that were appended; on disk it is one already."""
    storage_at(path).gather()


def discard(path: Place) -> None:
    """Remove a folder, or a link without what it points to; what cannot be removed stays."""
    storage_at(path).discard()


def sweep_staged(folder: Path) -> None:
    """Remove what killed processes left half written in a folder; nobody else may write there."""
    for file in folder.glob(".*.tmp"):
        if STAGED.fullmatch(file.name) and not file.is_dir():
            file.unlink(missing_ok=True)
