"""Single files of a disk: opened only when they are regular, staged, and made durable.

A named pipe would be waited for, a device read without an end: both are refused by name. Knows no
object store and no format.
"""

from __future__ import annotations

import os
import re
import stat
import uuid
from io import BufferedReader
from pathlib import Path

from engine.errors import MalformedFileError

STAGED = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names under which files are staged; a process that was killed leaves one."""

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def odd_kind(mode: int) -> str:
    """What a file is when it is no regular one ("a named pipe"); empty for a regular file."""
    if stat.S_ISREG(mode):
        return ""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; never waits for the other end of a pipe, and opens no device.

    Raises:
        FileNotFoundError: there is none.
        MalformedFileError: it is no regular file.
        OSError: it cannot be read.
    """
    odd = odd_kind(path.stat().st_mode)
    if not odd:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        odd = odd_kind(os.fstat(descriptor).st_mode)  # it may have been exchanged meanwhile
        if not odd:
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
    raise MalformedFileError(f"{path}: {odd} and no file")


def too_large(place: object, max_bytes: int) -> MalformedFileError:
    """The refusal of a file that is larger than any of its kind."""
    return MalformedFileError(f"{place}: larger than {max_bytes} bytes, which no such file is")


def staged_name(path: Path) -> Path:
    """A name beside `path`, like no other, to write under before it is renamed; see `STAGED`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def stage(path: Path, data: bytes) -> Path:
    """Write a file under another name, down to the disk; returns that name.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    staged = staged_name(path)
    try:
        with staged.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return staged


def write_line(descriptor: int, data: bytes) -> None:
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


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
