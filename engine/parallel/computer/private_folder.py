"""Short private folders: Ray's sockets lie in one, and a socket's path may have 107 characters.

TMPDIR of a batch job is often too long for that, so `/tmp` comes first.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from engine.errors import RunError

MAX_SOCKET_PATH = 107
_SOCKET = "session_2026-11-22_23-59-59_123456_1234567/sockets/plasma_store"  # Ray's longest


def short_tmp() -> Path:
    """The shortest temporary folder: the system's choice can be too long for a socket's path."""
    shortest = Path("/tmp")  # noqa: S108
    return shortest if os.access(shortest, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def fresh_folder() -> Path:
    """A new folder of mode 0700 for Ray's files, as long as one command lives.

    Raises:
        RunError: the only temporary folder is too long for Ray's sockets.
    """
    folder = Path(tempfile.mkdtemp(prefix="gem3d-", dir=short_tmp()))
    try:
        check_short(folder)
    except RunError:
        folder.rmdir()
        raise
    return folder


def make_private(folder: Path) -> None:
    """Make a folder that only its user can read, or make sure that it is one.

    Raises:
        RunError: it is a link, someone else's, or open to others.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise RunError(
            f"{folder}: not a private folder of yours, so no token is written there; remove it, or "
            "set GEM3D_CLUSTER_DIR to a short path of your own"
        )


def check_short(folder: Path) -> None:
    """Refuse a folder in which Ray cannot make its sockets.

    Raises:
        RunError: too long a path, or one with a space (Ray cuts its commands at spaces).
    """
    length = len(os.fsencode(folder / _SOCKET))
    if length > MAX_SOCKET_PATH:
        raise RunError(
            f"{folder}: {length - MAX_SOCKET_PATH} characters too long for Ray's sockets; set "
            "TMPDIR (and GEM3D_CLUSTER_DIR) to a short folder"
        )
    if any(character.isspace() for character in str(folder)):
        raise RunError(
            f"{str(folder)!r}: has a space, at which Ray cuts its commands; set TMPDIR (and "
            "GEM3D_CLUSTER_DIR) to a folder without one"
        )
