"""Locks of runs: numbered objects in a store or on a disk, and files of the operating system."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import RunError, StoreError
from engine.storage.backends.find import storage_at
from engine.storage.conditional import probe
from engine.storage.locks import file_lock, folder_lock, holder, mounts, object_lock
from engine.storage.locks.file_lock import FileLock, is_held_across_hosts, recorded_number
from engine.storage.locks.folder_lock import hold_folder
from engine.storage.locks.object_lock import ObjectLock
from engine.storage.objects.path import ObjectPath
from engine.storage.places import Place


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where numbered locks lie: the contract is one for disks and stores."""
    if request.param == "disk":
        yield tmp_path / "run" / "locks"
        return
    root = ObjectPath("memory://locks/run")
    root.remove_tree()
    yield root / "lock"


def only(place: Place) -> Place:
    (found,) = place.iterdir()
    return found


def change(place: Place, **fields: object) -> None:
    """Another holder than this process, last heard of now."""
    held = only(place)
    held.write_text(json.dumps({**json.loads(held.read_bytes()), **fields}))


def left_behind(place: Place, **fields: object) -> None:
    """A lock whose holder is gone without a word."""
    lock = ObjectLock(place)
    lock.acquire()
    lock._stop.set()
    change(place, process=2**22 + 1, **fields)


def test_numbers_rise_and_one_object_stays(place: Place) -> None:
    numbers = []
    for _ in range(3):
        lock = ObjectLock(place)
        lock.acquire()
        lock.check()
        numbers.append(lock.number)
        with pytest.raises(RunError, match=r"another job is at work here \(process \d+ on"):
            ObjectLock(place).acquire()
        lock.release()
    assert numbers == [1, 2, 3]
    assert only(place).name == "00000003.json"


def test_a_dead_process_of_this_machine_is_not_waited_for(place: Place) -> None:
    left_behind(place)
    lock = ObjectLock(place)
    lock.acquire()
    lock.release()
    assert lock.number == 2


@pytest.mark.parametrize("field", ["host", "boot_id", "pid_namespace"])
def test_a_process_number_of_elsewhere_says_nothing(place: Place, field: str) -> None:
    """Two containers of one name, a host that another one is called after: a living lock stays."""
    left_behind(place, **{field: "another"})
    with pytest.raises(RunError, match="another job is at work here"):
        ObjectLock(place).acquire()


def test_a_lock_of_an_early_version_is_waited_for(place: Place) -> None:
    left_behind(place)
    fields = json.loads(only(place).read_bytes())
    only(place).write_text(
        json.dumps({k: v for k, v in fields.items() if k not in ("boot_id", "pid_namespace")})
    )
    with pytest.raises(RunError, match="start again in"):
        ObjectLock(place).acquire()


@pytest.mark.parametrize("ahead_s", [86400.0, -86400.0])
def test_a_holders_clock_that_is_a_day_off_changes_nothing_and_is_told(ahead_s: float) -> None:
    root = ObjectPath("memory://locks/clock")
    root.remove_tree()
    left_behind(root / "lock", host="another", renewed_at=time.time() + ahead_s)
    how = "ahead of" if ahead_s > 0 else "behind"
    with pytest.raises(RunError, match=rf"its clock is 24\.0 h {how} the store's") as caught:
        ObjectLock(root / "lock").acquire()
    assert "start again in 60 s" in str(caught.value) or "start again in 59 s" in str(caught.value)


@pytest.mark.parametrize("ahead_s", [86400.0, -86400.0])
def test_our_own_clock_that_is_a_day_off_takes_no_living_lock(
    monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    root = ObjectPath("memory://locks/ours")
    root.remove_tree()
    left_behind(root / "lock", host="another")
    now = time.time
    monkeypatch.setattr(f"{object_lock.__name__}.time.time", lambda: now() + ahead_s)
    with pytest.raises(RunError, match=r"this machine's clock is 24\.0 h"):
        ObjectLock(root / "lock").acquire()


def test_a_silent_holder_is_replaced_and_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_lock, "EXPIRES_S", 0.1)
    monkeypatch.setattr(object_lock, "RENEWED_EVERY_S", 3600.0)
    first, second = ObjectLock(place), ObjectLock(place)
    first.acquire()
    time.sleep(0.2)
    second.acquire()
    monkeypatch.setattr(object_lock, "EXPIRES_S", 60.0)
    with pytest.raises(RunError, match="another job took this run over"):
        first.check()  # at once, and not when it is next renewed
    first.release()
    second.release()


def broken(*_: object) -> list[int]:
    raise RuntimeError("cannot schedule new futures")


def test_what_nobody_has_foreseen_does_not_end_renewing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_lock, "EXPIRES_S", 0.3)
    monkeypatch.setattr(object_lock, "RENEWED_EVERY_S", 0.02)
    lock = ObjectLock(place)
    lock.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(ObjectLock, "_numbers", broken)
        time.sleep(0.1)
        lock.check()  # not yet overdue
        time.sleep(0.3)
        with pytest.raises(RunError, match=r"not renewed any more .*cannot schedule new futures"):
            lock.check()
    time.sleep(0.1)
    lock.check()
    lock.release()


def test_a_renewing_thread_that_died_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectLock, "_renew_often", lambda _: None)
    lock = ObjectLock(place)
    lock.acquire()
    assert lock._thread is not None
    lock._thread.join()
    with pytest.raises(RunError, match="the thread that renews it has died"):
        lock.check()
    lock.release()


# Creating conditionally


class Careless(ObjectPath):
    """A store that overwrites whatever it is asked to create."""

    def write_new(self, data: bytes) -> bool:
        self.write_bytes(data)
        return True

    def __truediv__(self, name: str) -> Careless:
        return Careless(f"{self.url}/{name}")


def test_a_store_that_overwrites_is_found_before_anything_is_trusted_to_it() -> None:
    place = Careless("memory://careless/run/lock")
    place.remove_tree()
    with pytest.raises(StoreError, match="memory://careless/run: this store overwrites"):
        ObjectLock(place).acquire()
    assert not place.exists()


def test_a_place_is_probed_and_tells_the_time(place: Place) -> None:
    now = probe(place)
    assert now is not None
    assert abs(now - time.time()) < 5
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_of_two_writers_one_creates(
    place: Place, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    place.mkdir(parents=True)
    storage = storage_at(place / "a")
    assert storage.write_new(b"first")
    assert storage.write_new(b"first")  # our own: the answer was lost
    assert not storage.write_new(b"second")
    assert (place / "a").read_bytes() == b"first"
    assert [p.name for p in place.iterdir()] == ["a"]


# Files


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
