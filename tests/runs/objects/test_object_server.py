"""A server that refuses, is slow, dies, and loses its answers; credentials and addresses."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import fsspec
import pytest

from engine.errors import StoreError, StoreUnreachableError
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.making.worker import ResampleWorker
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import iter_plan
from engine.runs.record.status import read_state
from engine.sampling.request import SampledVolume, SampleRequest
from engine.storage.objects.path import ObjectPath
from s3_server import S3Server, slow_way
from tests.runs.fakes import FakeSampler, LoadFake
from tests.runs.objects.store_runs import (
    NAMES,
    RUN,
    lead_to,
    make,
    plan,
    task,
)


def test_a_server_that_refuses_is_named_soon_and_held_against_nobody(
    folder: RunFolder, s3: S3Server, data: Path
) -> None:
    folder.commit(NAMES[0]).unlink()
    row = next(row for row in iter_plan(folder.plan) if row.sample_id == NAMES[0])
    worker = ResampleWorker(task(ObjectPath(RUN), data), LoadFake())
    attempt = worker._handler.begin(row, alone=True)
    s3.stop()
    try:
        started = time.monotonic()
        status = worker({"plan": row.model_dump_json()})
        assert status["status"] == "failed"
        assert (
            f"{RUN}/commits/{NAMES[0]}.json: the object store does not answer" in status["message"]
        )
        assert time.monotonic() - started < 30
        started = time.monotonic()
        with pytest.raises(StoreUnreachableError, match="start the job again"):
            read_state(folder)
        assert time.monotonic() - started < 3, "a store that is gone is not waited for twice"
    finally:
        s3.start()
    assert not isinstance(attempt, dict)
    assert ledger.num_failures(folder, NAMES[0]) == 1, "an open attempt"
    assert make(folder, data) == ["committed"]
    assert ledger.num_failures(folder, NAMES[0]) == 0


class DyingSampler(FakeSampler):
    """The server dies while the second volume is sampled, and comes back a little later."""

    def sample(self, request: SampleRequest, on_window: object = None) -> SampledVolume:
        if len(self.seen) == 1:
            SERVERS[0].stop()
            threading.Timer(1.5, SERVERS[0].start).start()
        return super().sample(request, None)


SERVERS: list[S3Server] = []


def test_a_server_that_dies_in_mid_volume_and_comes_back_is_waited_for(
    s3: S3Server, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEM3D_STORE_PATIENCE_S", "60")
    SERVERS[:] = [s3]
    folder = RunFolder(ObjectPath(RUN))
    plan(folder)
    assert make(folder, data, DyingSampler()) == ["committed"] * 3
    assert verify_run(VerifyJob(run=folder.root)).sound == 3
    assert len(ledger.read_attempts(folder, NAMES[0])) == 1


def test_a_slow_server_costs_time_only(
    folder: RunFolder, s3: S3Server, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.commit(NAMES[0]).unlink()
    with slow_way(s3.port, 0.1) as port:
        lead_to(port, monkeypatch)
        assert make(folder, data) == ["committed"]
    lead_to(s3.port, monkeypatch)
    assert verify_run(VerifyJob(run=folder.root)).sound == 3


def test_an_answer_that_does_not_come_is_asked_for_again(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEM3D_STORE_PATIENCE_S", "60")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 0.5}})
    place = ObjectPath(f"{RUN}/report.html")
    with slow_way(s3.port, 5.0, num_late=2) as port:
        lead_to(port, monkeypatch)
        started = time.monotonic()
        place.write_text("whole")
        assert 1.0 < time.monotonic() - started < 30
    lead_to(s3.port, monkeypatch)
    assert place.read_text() == "whole"


def test_a_lost_answer_does_not_make_our_own_record_a_strangers(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ObjectPath(f"{RUN}/commits/a.json")
    cls = fsspec.get_filesystem_class("s3")
    pipe, calls = cls.pipe_file, []

    def lose_the_first_answer(self: object, path: str, data: bytes, **options: object) -> None:
        pipe(self, path, data, **options)
        calls.append(path)
        if len(calls) == 1:
            raise ConnectionResetError("told to")

    fs = fsspec.filesystem("s3", use_listings_cache=False)
    monkeypatch.setattr(type(fs), "pipe_file", lose_the_first_answer)
    assert place.write_new(b"ours")
    assert len(calls) == 1
    assert not place.write_new(b"another's")
    assert place.read_bytes() == b"ours"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://nowhere/run", "s3://nowhere/run: there is no such bucket; create it"),
        ("warp://bucket/run", "no kind of store that fsspec knows"),
    ],
)
def test_what_cannot_be_is_said_at_once(s3: S3Server, address: str, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(StoreError, match=message):
        RunFolder(ObjectPath(address)).create()
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("Access Denied"), "the store refuses these credentials"),
        (type("NoCredentialsError", (Exception,), {})(), "no credentials for this store"),
        (ImportError("Install s3fs"), "gem3d-engine"),
    ],
)
def test_credentials_have_messages_of_their_own(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Store:
        def ls(self, *_: object, **__: object) -> None:
            raise error

    def filesystem(*_: object, **__: object) -> Store:
        if isinstance(error, ImportError):
            raise error
        return Store()

    monkeypatch.setattr(fsspec, "filesystem", filesystem)
    with pytest.raises(StoreError, match=message):
        RunFolder(ObjectPath(RUN)).create()
