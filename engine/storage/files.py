"""The safe ways to write one file: `put` replaces it as a whole, `append` adds a line.

Each on disk and in an object store. Knows no run: what the files mean is their writers' business.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from engine.storage.objects.path import ObjectPath
from engine.storage.places import Place

PRIVATE_UMASK = 0o077
"""For processes whose files only their user may read (modes 0600 and 0700)."""

STAGED = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names under which `whole_file` writes; a process that was killed leaves one."""


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
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # see STAGED
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

    A line that an earlier writer left torn (it was killed, or the disk was full) keeps to itself:
    the new line begins on a line of its own. In an object store, where nothing can be added to,
    each line is an object of its own until `gather` puts them together.

    Raises:
        OSError: the file cannot be written, or is a link or no regular file.
    """
    if isinstance(path, ObjectPath):
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
        (path.with_name(path.stem) / name).write_text(line + "\n")
        return
    # O_NONBLOCK: a FIFO without a reader is an error and not a wait
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = (line + "\n").encode()
        if status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n":
            data = b"\n" + data
        _write_line(descriptor, data)
    finally:
        os.close(descriptor)


def _write_line(descriptor: int, data: bytes) -> None:
    """Write a line in one piece.

    After a short write the whole line follows on a line of its own: its rest could come behind
    another process's line. Who reads passes over the torn piece.
    """
    while True:
        written = os.write(descriptor, data)
        if written == len(data):
            return
        rest = data[written:]
        data = rest if rest == b"\n" else b"\n" + data.lstrip(b"\n")


def discard(path: Place) -> None:
    """Remove a folder, or a link without what it points to; what cannot be removed stays."""
    if isinstance(path, ObjectPath):
        path.remove_tree()
    elif path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def sweep_staged(folder: Path) -> None:
    """Remove what killed processes left half written in a folder; nobody else may write there."""
    for file in folder.glob(".*.tmp"):
        if STAGED.fullmatch(file.name) and not file.is_dir():
            file.unlink(missing_ok=True)


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
