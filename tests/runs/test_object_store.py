"""Runs in an object store: a real S3 server on 127.0.0.1 that refuses, is slow, dies, and lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from engine.config import parse_job
from engine.errors import ConfigError, RunError, StoreError, StoreUnreachableError
from engine.runs.audit.verify import VerifyJob, derived_from, verify_run, withdraw
from engine.runs.audit.withdraw import withdraw_patient
from engine.runs.export.export import ExportJob, export_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.making.worker import ResampleWorker, WorkerTask
from engine.runs.planning.rows import CaseFacts, build_plan
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_run
from engine.runs.record.own_files import settle_identity, settle_plan
from engine.runs.record.plan import PlanRow, iter_plan
from engine.runs.record.records import Commit
from engine.runs.record.status import read_state
from engine.sampling.config import SamplingConfig
from engine.sampling.request import SampledVolume, SampleRequest
from engine.storage.backends.find import storage_at
from engine.storage.files import append, gather
from engine.storage.locks import object_lock
from engine.storage.objects import client as object_client
from engine.storage.objects.path import ObjectPath
from engine.storage.objects.versions import keeps_versions
from engine.storage.places import as_place
from engine.volumes.store import hash_tree, read_ome_zarr
from s3_server import BUCKET, CREDENTIALS, S3Server, slow_way
from tests.runs.fakes import IDENTITY, FakeSampler, LoadFake, make_data

ROOT = Path(__file__).parents[2]
NAMES = [f"case{n}-r00" for n in range(3)]
RUN = f"s3://{BUCKET}/runs/mine"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """An empty bucket, and an environment that leads to it."""
    server.reset()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GEM3D_STORE_PATIENCE_S", "3")
    lead_to(server.port, monkeypatch)
    return server


def lead_to(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    object_client._given_up.clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("objects") / "data")


def task(root: ObjectPath, data: Path) -> WorkerTask:
    return WorkerTask(
        root=root,
        data=data,
        weights=data,
        sampling=SamplingConfig(),
        settings_sha256=IDENTITY.settings_sha256,
        weights_sha256=IDENTITY.weights_sha256,
        code="c",
        num_threads=1,
    )


def plan(folder: RunFolder) -> tuple[PlanRow, ...]:
    folder.create()
    facts = {f"case{n}": CaseFacts(12 + 2 * n, True) for n in range(3)}
    rows = build_plan(facts, list(facts), "cross", 1, 5)
    settle_identity(folder, IDENTITY)
    settle_plan(folder, lambda: rows)
    return rows


def make(folder: RunFolder, data: Path, sampler: FakeSampler | None = None) -> list[str]:
    """A job without Ray: where it stands, work; returns the statuses."""
    assert isinstance(folder.root, ObjectPath)
    with lock_run(folder):
        worker = ResampleWorker(task(folder.root, data), LoadFake(sampler or FakeSampler()))
        return [worker({"plan": row})["status"] for _, _, row in read_state(folder).pending]


FINISHED: dict[str, bytes] = {}


@pytest.fixture
def folder(s3: S3Server, data: Path) -> RunFolder:
    """A finished run of three volumes; made once, then put back."""
    root = ObjectPath(RUN)
    folder = RunFolder(root)
    if not FINISHED:
        plan(folder)
        assert make(folder, data) == ["committed"] * 3
        FINISHED.update({f"{RUN}/{n}": (root / n).read_bytes() for n in root.sizes()})
    fsspec.filesystem("s3", use_listings_cache=False).pipe(FINISHED)
    return folder


def commit_of(folder: RunFolder, name: str) -> Commit:
    commit = ledger.read_commit(folder, name)
    assert commit is not None
    return commit


def shard(folder: RunFolder) -> ObjectPath:
    place = ledger.volume_of(folder, commit_of(folder, NAMES[0])) / "0/c/0/0/0"
    assert isinstance(place, ObjectPath)
    return place


def test_a_run_is_made_exists_once_and_is_sound(folder: RunFolder, data: Path) -> None:
    verdict = verify_run(VerifyJob(run=folder.root))
    assert (verdict.planned, verdict.committed, verdict.sound) == (3, 3, 3)
    assert not verdict.findings
    assert not verdict.leftovers
    for name in NAMES:
        commit = commit_of(folder, name)
        assert hash_tree(ledger.volume_of(folder, commit)) == commit.files
        assert [p.name for p in folder.volume(name).iterdir()] == [commit.volume]
    assert make(folder, data) == []


def test_the_volumes_are_those_of_a_run_on_disk(
    folder: RunFolder, data: Path, tmp_path: Path
) -> None:
    local = RunFolder(tmp_path / "run")
    rows = plan(local)
    worker = ResampleWorker(task(local.root, data), LoadFake())  # type: ignore[arg-type]
    for row in rows:
        worker({"plan": row.model_dump_json()})
        assert commit_of(local, row.sample_id).files == commit_of(folder, row.sample_id).files


def flip(folder: RunFolder) -> None:
    raw = bytearray(shard(folder).read_bytes())
    raw[len(raw) // 2] ^= 1
    shard(folder).write_bytes(bytes(raw))


def half_a_record(folder: RunFolder) -> None:
    place = folder.commit(NAMES[0])
    place.write_text(place.read_text()[:200])


def lose_the_volume(folder: RunFolder) -> None:
    volume = ledger.volume_of(folder, commit_of(folder, NAMES[0]))
    assert isinstance(volume, ObjectPath)
    volume.remove_tree()


DAMAGE: list[tuple[Callable[[RunFolder], object], str]] = [
    (flip, "changed file"),
    (lambda f: shard(f).write_bytes(shard(f).read_bytes()[:-9]), "changed file"),
    (lambda f: shard(f).write_bytes(b""), "empty file"),
    (lambda f: shard(f).unlink(), "missing file"),
    (lose_the_volume, "missing volume"),
    (half_a_record, "bad commit record"),
]


@pytest.mark.parametrize(("damage", "kind"), DAMAGE)
def test_damage_is_found_repaired_and_made_again(
    folder: RunFolder, data: Path, damage: Callable[[RunFolder], object], kind: str
) -> None:
    before = commit_of(folder, NAMES[0])
    damage(folder)
    verdict = verify_run(VerifyJob(run=folder.root))
    assert {(f.sample_id, f.kind) for f in verdict.findings} >= {(NAMES[0], kind)}
    assert {f.sample_id for f in verdict.findings} == {NAMES[0]}
    assert verify_run(VerifyJob(run=folder.root, repair=True)).is_sound
    assert not folder.volume(NAMES[0]).exists()
    assert make(folder, data) == ["committed"]
    assert commit_of(folder, NAMES[0]).files == before.files
    assert verify_run(VerifyJob(run=folder.root)).sound == 3


class KilledError(BaseException):
    """The process is gone."""


def test_a_kill_between_objects_and_record_leaves_nothing_that_counts(
    s3: S3Server, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(ObjectPath(RUN))
    plan(folder)

    def die(place: ObjectPath, text: bytes) -> bool:
        if place.parent.name == "commits":
            raise KilledError
        return write_new(place, text)

    write_new = ObjectPath.write_new
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(ObjectPath, "write_new", die)
        make(folder, data)
    (left,) = ledger.stored_ids(folder)
    assert ledger.committed_ids(folder) == set()
    assert verify_run(VerifyJob(run=folder.root)).leftovers == [left]
    (torn,) = folder.volume(left).iterdir()
    assert make(folder, data) == ["committed"] * 3
    assert not torn.exists()
    assert verify_run(VerifyJob(run=folder.root)).sound == 3
    assert ledger.num_failures(folder, left) == 0, "the whole job died: nobody's fault"


def test_a_kill_in_mid_upload_is_swept(
    s3: S3Server, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(ObjectPath(RUN))
    plan(folder)
    write = ObjectPath.write_bytes

    def die(place: ObjectPath, raw: bytes) -> None:
        if place.name == "zarr.json" and "volumes" in place.url:
            raise KilledError
        write(place, raw)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(ObjectPath, "write_bytes", die)
        make(folder, data)
    assert len(ledger.stored_ids(folder)) == 1
    read_state(folder)
    assert not ledger.stored_ids(folder)


def test_of_two_attempts_the_first_record_counts(folder: RunFolder, data: Path) -> None:
    first = commit_of(folder, NAMES[0])
    late = ledger.begin_attempt(folder, NAMES[0], "of a lost node")
    staged = ledger.staging_place(folder, late)
    (staged / "zarr.json").write_text("other bytes")
    made = ledger.commit(
        folder, late, staged, hash_tree, lambda files: first.model_copy(update={"files": files})
    )
    assert made == first == commit_of(folder, NAMES[0])
    assert not staged.exists()


def test_what_was_swept_meanwhile_is_not_committed(folder: RunFolder) -> None:
    first = commit_of(folder, NAMES[0])
    folder.commit(NAMES[0]).unlink()
    late = ledger.begin_attempt(folder, NAMES[0], "of a dead job")
    staged = ledger.staging_place(folder, late)
    with pytest.raises(StoreError, match="swept away"):
        ledger.commit(folder, late, staged, lambda _: first.files, lambda files: first)
    assert ledger.read_commit(folder, NAMES[0]) is None


def test_a_volume_that_reads_back_otherwise_is_refused(
    s3: S3Server, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(ObjectPath(RUN))
    plan(folder)
    write = ObjectPath.write_bytes

    def lie(place: ObjectPath, raw: bytes) -> None:
        write(place, raw[:-1] if place.url.endswith("/0/c/0/0/0") else raw)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectPath, "write_bytes", lie)
        assert make(folder, data) == ["failed"] * 3
    assert not ledger.committed_ids(folder)
    failure, *_ = (folder.root / "failures").iterdir()
    assert isinstance(failure, ObjectPath)
    assert "reads back otherwise" in failure.read_text()


def test_withdrawal_and_export(folder: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    assert len(export_run(ExportJob(run=folder.root, out=out))) == 3
    image, _, _ = read_ome_zarr(ledger.volume_of(folder, commit_of(folder, NAMES[1])))
    assert (out / "images" / f"{NAMES[1]}.nii.gz").is_file()
    assert image.size_zyx == (14, 26, 28)
    with pytest.raises(ConfigError, match="exports are written to disk"):
        export_run(ExportJob(run=folder.root))
    expected = [row.sample_id for row in derived_from(folder, "case0")]
    assert "bucket keeps older versions" not in str(withdraw_patient(folder, "case0").outside)
    assert withdraw(folder, "case0") == expected, "the same call again is harmless"
    assert isinstance(folder.root, ObjectPath)
    keys = folder.root.sizes()
    named = {key: size for key, size in keys.items() if any(name in key for name in expected)}
    assert {(key.partition("/")[0], size) for key, size in named.items()} == {("commits", 0)}
    exported = {path.name.removesuffix(".nii.gz") for path in (out / "images").iterdir()}
    assert exported == set(NAMES) - set(expected)
    assert set(expected).isdisjoint(ledger.stored_ids(folder) | ledger.committed_ids(folder))
    assert read_state(folder).pending == []
    assert verify_run(VerifyJob(run=folder.root)).is_sound


def test_a_bucket_that_keeps_older_versions_is_known(s3: S3Server) -> None:
    store = fsspec.filesystem("s3")
    store.mkdir("versions")
    place = ObjectPath("s3://versions/runs/mine")
    assert keeps_versions(place) is False
    for status in ("Enabled", "Suspended"):
        asked = {"VersioningConfiguration": {"Status": status}, "Bucket": "versions"}
        store.call_s3("put_bucket_versioning", **asked)
        assert keeps_versions(place) is True
    assert keeps_versions(ObjectPath("s3://nobody/runs/mine")) is None


def test_a_name_that_is_a_pattern_deletes_its_own_objects_only(folder: RunFolder) -> None:
    for odd in ("mine[12]", "min?", "m*", "[m]ine"):
        other = ObjectPath(f"s3://{BUCKET}/runs/{odd}")
        (other / "volumes" / NAMES[0] / "x").write_bytes(b"1")
        (other / "volumes").remove_tree()
        assert not other.exists()
    assert verify_run(VerifyJob(run=folder.root)).sound == 3


def test_foreign_objects_are_named_and_harm_nothing(folder: RunFolder, tmp_path: Path) -> None:
    volume = ledger.volume_of(folder, commit_of(folder, NAMES[0]))
    inside = f"volumes/{NAMES[0]}/{volume.name}"
    foreign = ["commits/.DS_Store", f"{inside}/.DS_Store", f"{inside}/0/c/0/notes"]
    foreign += [f"volumes/{NAMES[0]}/.DS_Store", "volumes/.DS_Store", "volumes/mine/file"]
    for name in foreign:
        (folder.root / name).write_text("x")
    assert read_state(folder).pending == []
    verdict = verify_run(VerifyJob(run=folder.root))
    assert (verdict.findings, verdict.leftovers, verdict.sound) == ([], [], 3)
    named = [*foreign[:-1], "volumes/mine"]
    assert sorted(finding.detail for finding in verdict.foreign) == sorted(named)
    assert len(export_run(ExportJob(run=folder.root, out=tmp_path / "exported"))) == 3
    assert len(verify_run(VerifyJob(run=folder.root, repair=True)).removed) == len(foreign)
    assert not any((folder.root / name).exists() for name in foreign)
    assert verify_run(VerifyJob(run=folder.root)).foreign == []
    (volume / "0/c/9/9/9").write_text("x")
    (finding,) = verify_run(VerifyJob(run=folder.root)).findings
    assert (finding.sample_id, finding.kind) == (NAMES[0], "extra file")


def test_failures_are_counted_over_restarts(s3: S3Server, data: Path) -> None:
    folder = RunFolder(ObjectPath(RUN))
    plan(folder)
    bad = FakeSampler(fail=frozenset({NAMES[0]}))
    assert sorted(make(folder, data, bad)) == ["committed", "committed", "failed"]
    for _ in range(ledger.MAX_FAILURES - 1):
        assert make(folder, data, bad) == ["failed"]
    assert make(folder, data, bad) == []
    assert read_state(folder).barred == [NAMES[0]]
    gather(folder.failures)
    lines = folder.failures.read_text().splitlines()
    assert [json.loads(line)["attempt"] for line in lines] == [1, 2, 3]


# The server


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


# The lock


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


# Jobs and addresses


@pytest.mark.usefixtures("no_ray")
def test_a_whole_job_on_s3_and_its_rerun(s3: S3Server, config: ResampleConfig) -> None:
    there = config.model_copy(update={"out": ObjectPath(RUN)})
    outcome = resample(there, LoadFake())
    assert (outcome.summary.committed, outcome.summary.failed) == (3, 0)
    assert str(outcome.report) == f"{RUN}/report.html"
    assert "not for diagnosis" in outcome.report.read_text()
    assert not resample(there, LoadFake()).worked
    with pytest.raises(RunError, match=r"settings\.seed was 0, is now 1"):
        resample(there.model_copy(update={"seed": 1}), LoadFake())
    for place in ("run.yaml", "plan.jsonl", "summary.json", "report.html"):
        text = (ObjectPath(RUN) / place).read_text()
        assert not [v for v in CREDENTIALS.values() if v in text and "_" not in v and "-" in v]


@pytest.mark.ray
def test_workers_of_ray_find_the_store_by_their_environment(
    s3: S3Server, config: ResampleConfig
) -> None:
    there = config.model_copy(update={"out": ObjectPath(RUN), "num_pictured": 0})
    code = (
        "import sys; from engine.runs.jobs.resample import ResampleConfig, resample;"
        "from tests.runs.fakes import LoadFake;"
        "config = ResampleConfig.model_validate_json(sys.argv[1]);"
        "sys.exit(resample(config, LoadFake()).summary.failed)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", code, there.model_dump_json()]
    done = subprocess.run(
        command, cwd=ROOT, env=clean, check=False, timeout=280, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode() not in done.stdout + done.stderr
    workers = {a.worker for n in NAMES for a in ledger.read_attempts(RunFolder(there.out), n)}
    assert workers
    assert not any(worker.endswith(f":{os.getpid()}") for worker in workers)
    assert verify_run(VerifyJob(run=there.out)).sound == 3


@pytest.mark.usefixtures("no_ray")
def test_prepared_data_can_lie_in_the_store(s3: S3Server, config: ResampleConfig) -> None:
    assert isinstance(config.data, Path)
    data = ObjectPath(f"s3://{BUCKET}/data")
    for file in config.data.rglob("*"):
        if file.is_file():
            (data / file.relative_to(config.data).as_posix()).write_bytes(file.read_bytes())
    outcome = resample(config.model_copy(update={"data": data}), LoadFake())
    assert outcome.summary.committed == 3
    with pytest.raises(ConfigError, match=r"holds no dataset\.json"):
        resample(config.model_copy(update={"data": ObjectPath(RUN)}), LoadFake())


def test_another_kind_of_store(data: Path) -> None:
    folder = RunFolder(ObjectPath("memory://place/run"))
    plan(folder)
    try:
        assert make(folder, data) == ["committed"] * 3
        assert verify_run(VerifyJob(run=folder.root)).sound == 3
    finally:
        folder.root.remove_tree()  # type: ignore[union-attr]


def test_lines_become_one_file(s3: S3Server) -> None:
    folder = RunFolder(ObjectPath(RUN))
    gather(folder.failures)
    assert not folder.failures.exists()
    for line in ("a", "b"):
        append(folder.failures, line)
    gather(folder.failures)
    assert folder.failures.read_text() == "a\nb\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://", "not the address of a place"),
        ("s3:///run", "not the address of a place"),
        ("s3://bucket/../run", "not the address of a place"),
        ("s3://key:secret@bucket/run", "must not hold credentials"),
        ("s3:/bucket/run", "given as text"),
    ],
)
def test_addresses_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        as_place(text)
    assert "secret" not in str(caught.value)


def test_addresses_and_paths(tmp_path: Path) -> None:
    assert as_place("s3://bucket/run/") == ObjectPath("s3://bucket/run")
    assert as_place(f"file://{tmp_path}/run") == tmp_path / "run"
    assert as_place("runs/mine") == Path("runs/mine")
    config = ResampleConfig.model_validate({"out": RUN, "data": str(tmp_path)})
    assert (config.out, config.data) == (ObjectPath(RUN), tmp_path)
    assert config.model_dump(mode="json")["out"] == RUN
    assert ResampleConfig.model_validate_json(config.model_dump_json()) == config
    assert ResampleConfig().data is None
    with pytest.raises(ValueError, match="neither a path nor an address"):
        ResampleConfig.model_validate({"out": 3})


def test_the_command_line_takes_addresses_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_job(VerifyJob, ["--run", RUN], "").run == ObjectPath(RUN)
    assert parse_job(VerifyJob, ["--run", "runs/mine"], "").run == Path.cwd() / "runs" / "mine"
    made = parse_job(ResampleConfig, ["--out", RUN, "--data", RUN], "")
    assert (made.out, made.data) == (ObjectPath(RUN), ObjectPath(RUN))
    assert parse_job(ResampleConfig, [], "").data is None
    with pytest.raises(SystemExit):
        parse_job(VerifyJob, ["--run", "s3://k:secret@bucket/run"], "")
    output = capsys.readouterr()
    assert "must not hold credentials" in output.out + output.err


def test_libraries_that_want_files_get_them(s3: S3Server, tmp_path: Path) -> None:
    for place in (ObjectPath(f"{RUN}/masks/a.nii.gz"), tmp_path / "masks" / "a.nii.gz"):
        with storage_at(place).file_to_write() as file:
            file.write_bytes(b"voxels")
        with storage_at(place).as_file() as file:
            assert (file.name, file.read_bytes()) == ("a.nii.gz", b"voxels")
