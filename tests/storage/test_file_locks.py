"""The lock of a run on a disk: who holds it, where locks do not hold, and shared folders."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import RunError, StoreError
from engine.storage.locks import file_lock, folder_lock, holder, mounts, object_lock
from engine.storage.locks.file_lock import FileLock, is_held_across_hosts, recorded_number
from engine.storage.locks.folder_lock import hold_folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_a_file_lock_counts_and_names_its_holder(path: Path) -> None:
    path.write_text("process 7 on early\n")  # as version 0.1.0 wrote it
    for number in (1, 2):
        lock = FileLock(path)
        lock.acquire()
        assert (lock.number, recorded_number(path)) == (number, number)
        with pytest.raises(RunError, match=f"process {os.getpid()} on"):
            FileLock(path).acquire()
        lock.release()


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_without_locks_a_renewed_file_keeps_others_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    first, second = FileLock(path), FileLock(path)
    first.acquire()
    first.check()
    with pytest.raises(RunError, match="another job is at work here"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    assert second.number == 2


def test_on_a_shared_file_system_another_hosts_job_is_seen_though_its_lock_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "is_shared", lambda _: True)
    lock = FileLock(path)
    lock.acquire()
    here = holder.this_machine()
    monkeypatch.setattr(object_lock, "this_machine", lambda: replace(here, boot_id="another"))
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # holds on one machine only
    with pytest.raises(RunError, match="another job is at work here"):
        FileLock(path).acquire()
    lock.release()


def test_whether_a_lock_holds_across_hosts_is_tried(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FileLock(path)
    lock.acquire()
    assert is_held_across_hosts(path) is None, "the same machine"
    here = holder.this_machine()
    monkeypatch.setattr(file_lock, "this_machine", lambda: replace(here, boot_id="another"))
    assert is_held_across_hosts(path) is True
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert is_held_across_hosts(path) is False
    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert is_held_across_hosts(path) is None
    lock.release()


def test_a_colleagues_lock_in_a_shared_folder_gives_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is theirs and read-only for us; its lock still counts while they hold it."""
    theirs = FileLock(path)
    theirs.acquire()
    open_file = os.open

    def not_ours(name: Any, flags: int, mode: int = 0o777) -> int:
        if Path(name) == path and flags & os.O_RDWR and path.stat().st_ino == inode:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(name, flags, mode)

    inode = path.stat().st_ino
    monkeypatch.setattr(os, "open", not_ours)
    with pytest.raises(RunError, match="another job is at work here"):
        FileLock(path).acquire()
    theirs.release()
    ours = FileLock(path)
    ours.acquire()
    assert ours.number == 2
    with pytest.raises(RunError, match="another job is at work here"):
        FileLock(path).acquire()
    ours.release()
    assert [p.name for p in path.parent.iterdir()] == ["lock"]


@pytest.mark.parametrize("harm", [os.mkfifo, Path.mkdir, lambda p: p.symlink_to("/nowhere")])
def test_what_cannot_be_locked_is_named(path: Path, harm: Callable[[Path], object]) -> None:
    harm(path)
    with pytest.raises(RunError, match="lock: cannot be locked"):
        FileLock(path).acquire()


def test_steps_in_a_folder_wait_for_each_other_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from engine.storage.locks.folder_lock import hold_folder;"
        "held = hold_folder(Path(sys.argv[1])); held.__enter__(); print('held', flush=True);"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        monkeypatch.setattr(folder_lock, "_WAIT_S", 0.2)
        with pytest.raises(StoreError, match="another process has held this folder"):
            hold_folder(tmp_path).__enter__()
        process.kill()
    with hold_folder(tmp_path):
        pass


def test_shared_mounts_are_known_by_their_kind(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        "2 1 0:5 / /home rw - nfs4 server:/home rw\n"
        "3 2 8:2 / /home/a\\040b rw - xfs /dev/sdb rw\n"
        "4 1 0:6 / /mnt/gdrive rw - fuse.rclone x rw\n"
        "nonsense\n"
    )
    shared = {
        p: mounts.is_shared(Path(p), table) for p in ("/", "/home/x", "/home/a b/c", "/homes")
    }
    assert shared == {"/": False, "/home/x": True, "/home/a b/c": False, "/homes": False}
    assert mounts.is_shared(Path("/mnt/gdrive/run"), table)
    assert not mounts.is_shared(Path("/home/x"), tmp_path / "none")
