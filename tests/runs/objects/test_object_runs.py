"""Runs in an object store: made once, damaged, killed, swept, withdrawn, exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from engine.errors import ConfigError, StoreError
from engine.runs.audit.verify import VerifyJob, derived_from, verify_run, withdraw
from engine.runs.audit.withdraw import withdraw_patient
from engine.runs.export.export import ExportJob, export_run
from engine.runs.making.worker import ResampleWorker
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.status import read_state
from engine.storage.files import gather
from engine.storage.objects.path import ObjectPath
from engine.storage.objects.versions import keeps_versions
from engine.volumes.store import hash_tree, read_ome_zarr
from s3_server import BUCKET, S3Server
from tests.runs.fakes import FakeSampler, LoadFake
from tests.runs.objects.store_runs import (
    NAMES,
    RUN,
    commit_of,
    make,
    plan,
    shard,
    task,
)


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
