"""A few steps in a folder of a disk that no other process may take at the same time."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import StoreError

HELD = (errno.EWOULDBLOCK, errno.EACCES)
"""What the operating system says of a lock that another process holds."""
_WAIT_S = 60.0


@contextmanager
def hold_folder(path: Path) -> Iterator[None]:
    """Keep other processes out of a few steps in a folder; does nothing where there are no locks.

    Raises:
        StoreError: another process holds it for longer than such steps take.
    """
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline_s = time.monotonic() + _WAIT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in HELD and time.monotonic() > deadline_s:
                    raise StoreError(
                        f"{path}: another process has held this folder for "
                        f"{_WAIT_S:.0f} s; end it (it may be stopped), and start again"
                    ) from None
                if error.errno not in HELD:
                    break
                time.sleep(0.05)
            else:
                break
        yield
    finally:
        os.close(descriptor)
