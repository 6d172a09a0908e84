"""The lock of a run on a disk: one file, locked by the operating system.

Such a lock ends with its process, whatever becomes of it. Where several machines share a file
system, or it has no locks at all, a numbered lock that is renewed stands beside it
(`object_lock.py`): there the operating system may lock for its own machine only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from engine.errors import RunError, StoreError
from engine.log import get_logger
from engine.storage.locks.folder_lock import HELD
from engine.storage.locks.holder import own_start, this_machine
from engine.storage.locks.lock import Lock
from engine.storage.locks.mounts import is_shared
from engine.storage.locks.object_lock import ObjectLock

log = get_logger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_MOST_BYTES = 4096


class FileLock(Lock):
    """Holds a folder of a disk for this process.

    Args:
        path: the lock's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptors: list[int] = []
        self._numbered: ObjectLock | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunError: another job holds it, or the file cannot be locked.
            StoreError: the folder cannot be written.
        """
        try:
            has_locks, writable = self._lock_file()
            if not has_locks or is_shared(self._path.parent):
                self._numbered = _numbered_lock(self._path)
            self._number = recorded_number(self._path) + 1
            self._write_holder(replace=not writable)
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """Make sure that the lock is still ours; the operating system's own cannot be lost.

        Raises:
            RunError: another job took it over, or it is not renewed any more.
        """
        if self._numbered is not None:
            self._numbered.check()

    def release(self) -> None:
        """Let go."""
        if self._numbered is not None:
            self._numbered.release()
            self._numbered = None
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def _lock_file(self) -> tuple[bool, bool]:
        """Lock the file that has the name now; returns whether there are locks, and if writable."""
        while True:
            descriptor, writable = self._open()
            self._descriptors.append(descriptor)
            has_locks = self._lock(descriptor)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._path.lstat()):
                    return has_locks, writable
            os.close(self._descriptors.pop())  # a colleague's job put its own file there

    def _open(self) -> tuple[int, bool]:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self._path, flags | os.O_RDWR | os.O_CREAT, 0o666)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise OSError(errno.EINVAL, "not a regular file")
            return descriptor, True
        except OSError as error:
            if error.errno == errno.EACCES and os.access(self._path.parent, os.W_OK):
                with suppress(OSError):  # of a colleague, in a folder that we may write to
                    return os.open(self._path, flags | os.O_RDONLY), False
            raise RunError(_not_lockable(self._path, error)) from None

    def _lock(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                raise RunError(
                    f"{self._path.parent}: another job is at work here ({_holder(self._path)}); "
                    "wait for it, end it, or choose another place with --out"
                ) from None
            if error.errno not in _NO_LOCKS:
                raise RunError(_not_lockable(self._path, error)) from None
            log.warning(
                "%s: this file system has no locks (%s); a renewed file in locks/ keeps other "
                "jobs out", self._path.parent, error.strerror,
            )  # fmt: skip
            return False
        return True

    def _write_holder(self, *, replace: bool) -> None:
        """Write who holds it; a colleague's file that cannot be written gives way to a new one."""
        machine = this_machine()
        record = {
            "number": self._number,
            "process": os.getpid(),
            "process_started_at": own_start(),
            "host": machine.host,
            "boot_id": machine.boot_id,
            "pid_namespace": machine.pid_namespace,
        }
        data = (json.dumps(record) + "\n").encode()
        try:
            if not replace:
                os.pwrite(self._descriptors[-1], data, 0)
                os.ftruncate(self._descriptors[-1], len(data))
                return
            staged = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptors.append(os.open(staged, flags, 0o666))
            fcntl.flock(self._descriptors[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self._descriptors[-1], data, 0)
            staged.replace(self._path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RunError(
                    f"{self._path}: cannot be written ({error.strerror}); free disk space and "
                    "start the job again"
                ) from None
            raise RunError(_not_lockable(self._path, error)) from None


def recorded_number(path: Path) -> int:
    """Number of the last holding of a lock's file; 0 where it tells none."""
    number = _record(path).get("number")
    return number if isinstance(number, int) else 0


def is_held_across_hosts(path: Path) -> bool | None:
    """Whether a lock that a job on another machine holds can be felt on this one.

    Args:
        path: the lock's file; its job is at work.

    Returns:
        None where this cannot be told: the job is on this machine, or there are no locks.
    """
    record = _record(path)
    boot_id = record.get("boot_id")
    if not boot_id or boot_id == this_machine().boot_id:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in HELD else None
    finally:
        os.close(descriptor)
    return False


def _numbered_lock(path: Path) -> ObjectLock:
    """The numbered lock beside a file, taken."""
    numbered = ObjectLock(path.with_name("locks"))
    try:
        numbered.acquire()
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise RunError(_not_lockable(path, error)) from None
    return numbered


def _record(path: Path) -> dict[str, object]:
    try:
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _holder(path: Path) -> str:
    """Who holds it, for a message; early versions wrote a sentence."""
    record = _record(path)
    if record:
        return f"process {record.get('process')} on {record.get('host')}"
    with suppress(OSError):
        text = path.read_bytes()[:200].decode(errors="replace").strip()
        return text or "unknown"
    return "unknown"


def _not_lockable(path: Path, error: OSError) -> str:
    owner = ""
    with suppress(OSError, KeyError):
        uid = path.lstat().st_uid
        if error.errno == errno.EACCES and uid != os.getuid():
            owner = (
                f"; it belongs to {pwd.getpwuid(uid).pw_name}, who can share it (chmod -R g+rwX)"
            )
    return (
        f"{path}: cannot be locked ({error.strerror}){owner}; make the folder writable and this "
        "file no link, or choose another place with --out"
    )
