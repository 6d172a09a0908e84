"""Whole jobs on a store, and the addresses that they take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import parse_job
from engine.errors import ConfigError, RunError
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.storage.backends.find import storage_at
from engine.storage.files import append, gather
from engine.storage.objects.path import ObjectPath
from engine.storage.places import as_place
from s3_server import BUCKET, CREDENTIALS, S3Server
from tests.runs.fakes import LoadFake
from tests.runs.objects.store_runs import (
    NAMES,
    ROOT,
    RUN,
    make,
    plan,
)


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
