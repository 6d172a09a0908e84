"""Locks of runs: numbered objects in a store or on a disk, and files of the operating system."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import RunError, StoreError
from engine.storage.backends.find import storage_at
from engine.storage.conditional import probe
from engine.storage.locks import object_lock
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
