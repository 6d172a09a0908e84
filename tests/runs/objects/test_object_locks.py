"""The lock of a run in an object store."""

from __future__ import annotations

import json
import threading
import time

import pytest

from engine.errors import RunError
from engine.runs.record.folder import RunFolder, lock_run
from engine.storage.locks import object_lock
from engine.storage.objects.path import ObjectPath
from s3_server import S3Server
from tests.runs.objects.store_runs import (
    RUN,
)


def test_a_second_job_is_refused_and_told_who_holds_the_run(s3: S3Server) -> None:
    folder = RunFolder(ObjectPath(RUN))
    with lock_run(folder) as lock:
        with pytest.raises(RunError, match=r"another job .*process \d+ on"), lock_run(folder):
            pass
        lock.check()
    with lock_run(folder):
        pass  # free again
    assert len(list((folder.root / "lock").iterdir())) == 1


def test_of_many_jobs_at_once_one_wins(s3: S3Server) -> None:
    folder, won, lost = RunFolder(ObjectPath(RUN)), [], []
    gate, done = threading.Barrier(6), threading.Event()

    def job() -> None:
        lock = lock_run(folder)
        gate.wait()
        try:
            with lock:
                won.append(1)
                done.wait(20)
        except RunError as error:
            lost.append(str(error))
        if len(lost) == 5:
            done.set()

    threads = [threading.Thread(target=job) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 5


def test_a_silent_holder_loses_its_lock_and_notices(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_lock, "EXPIRES_S", 0.4)
    monkeypatch.setattr(object_lock, "RENEWED_EVERY_S", 3600.0)
    folder = RunFolder(ObjectPath(RUN))
    with lock_run(folder) as first:
        time.sleep(0.5)
        with lock_run(folder) as second:
            assert isinstance(first, object_lock.ObjectLock)
            first._renew()  # it wakes up
            with pytest.raises(RunError, match="took this run over"):
                first.check()
            second.check()


def test_a_renewed_lock_is_kept(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_lock, "EXPIRES_S", 1.0)
    monkeypatch.setattr(object_lock, "RENEWED_EVERY_S", 0.1)
    folder = RunFolder(ObjectPath(RUN))
    with lock_run(folder):
        time.sleep(1.5)
        with pytest.raises(RunError, match="another job"), lock_run(folder):
            pass


def test_a_job_that_was_killed_on_this_machine_holds_nothing(s3: S3Server) -> None:
    folder = RunFolder(ObjectPath(RUN))
    with lock_run(folder):
        pass
    (place,) = (folder.root / "lock").iterdir()
    holder = json.loads(place.read_text())
    dead = {**holder, "released": False, "renewed_at": time.time(), "process": 2**22 + 1}
    place.write_text(json.dumps(dead))
    with lock_run(folder):
        pass
    (place,) = (folder.root / "lock").iterdir()
    place.write_text(json.dumps({**dead, "host": "elsewhere"}))
    with pytest.raises(RunError, match="elsewhere, last heard of"), lock_run(folder):
        pass


def test_a_lock_that_could_not_be_released_holds_nobody_off(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEM3D_STORE_PATIENCE_S", "0.5")
    folder = RunFolder(ObjectPath(RUN))
    with lock_run(folder):
        s3.stop()
    s3.start()
    with lock_run(folder):
        pass
