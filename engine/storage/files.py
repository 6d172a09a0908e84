"""The safe ways to write one file: `put` replaces it as a whole, `append` adds a line.

Each on disk and in an object store. Knows no run: what the files mean is their writers' business.
"""

from __future__ import annotations

import io
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from engine.storage.object_path import ObjectPath
from engine.storage.places import Place


def put(path: Place, text: str) -> None:
    """Write a whole file; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text)


@contextmanager
def whole_file(path: Place) -> Iterator[TextIO]:
    """A file to write, so that readers see the old one or the new one, also after a power cut."""
    if isinstance(path, ObjectPath):
        text = io.StringIO()
        yield text
        path.write_text(text.getvalue())
        return
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with staged.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(path.parent)


def append(path: Place, line: str) -> None:
    """Add one line in a single write, so that lines of several processes do not mix.

    In an object store, where nothing can be added to, each line is an object of its own until
    `gather` puts them together.
    """
    if isinstance(path, ObjectPath):
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
        (path.with_name(path.stem) / name).write_text(line + "\n")
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o644)
    try:
        os.write(descriptor, (line + "\n").encode())
    finally:
        os.close(descriptor)


def discard(path: Place) -> None:
    """Remove a folder, or a link without what it points to; what cannot be removed stays."""
    if isinstance(path, ObjectPath):
        path.remove_tree()
    elif path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def gather(path: Place) -> None:
    """Make one file of the lines that were appended; on disk it is one already."""
    if isinstance(path, ObjectPath):
        lines = [part.read_text() for part in path.with_name(path.stem).iterdir()]
        if lines:
            path.write_text("".join(lines))


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
