"""The lock of a run on a disk: one file, locked by the operating system."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from engine.errors import RunError


class FileLock:
    """A lock of the operating system, which lets go when the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def check(self) -> None:
        """It cannot be lost."""

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunError: another job holds it, or the file cannot be locked.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self._path, flags, 0o644)
        except OSError as error:
            raise RunError(
                f"{self._path}: cannot be locked ({error.strerror}); make the folder writable and "
                "this file no link, or choose another place with --out"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunError(
                f"{self._path.parent}: another job is at work here ({holder or 'unknown'}); "
                "wait for it, end it, or choose another place with --out"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
