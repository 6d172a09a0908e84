"""Runs in an object store without Ray: planned, made, and looked into."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from engine.runs.making.worker import ResampleWorker, WorkerTask
from engine.runs.planning.rows import CaseFacts, build_plan
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_run
from engine.runs.record.own_files import settle_identity, settle_plan
from engine.runs.record.plan import PlanRow
from engine.runs.record.records import Commit
from engine.runs.record.status import read_state
from engine.sampling.config import SamplingConfig
from engine.storage.objects import client as object_client
from engine.storage.objects.path import ObjectPath
from s3_server import BUCKET
from tests.runs.fakes import IDENTITY, FakeSampler, LoadFake

ROOT = Path(__file__).parents[3]
NAMES = [f"case{n}-r00" for n in range(3)]
RUN = f"s3://{BUCKET}/runs/mine"


def lead_to(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    object_client._given_up.clear()


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


def commit_of(folder: RunFolder, name: str) -> Commit:
    commit = ledger.read_commit(folder, name)
    assert commit is not None
    return commit


def shard(folder: RunFolder) -> ObjectPath:
    place = ledger.volume_of(folder, commit_of(folder, NAMES[0])) / "0/c/0/0/0"
    assert isinstance(place, ObjectPath)
    return place
