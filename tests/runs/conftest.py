import shutil
from pathlib import Path

import pytest

from engine.runs.jobs.resample import ResampleConfig
from engine.runs.making.worker import ResampleWorker, WorkerTask
from engine.runs.planning.rows import CaseFacts, build_plan
from engine.runs.record.folder import RunFolder
from engine.runs.record.own_files import settle_identity, settle_plan
from engine.sampling.config import SamplingConfig
from tests.runs.fakes import IDENTITY, LoadFake, make_data, make_weights, work_here


@pytest.fixture
def config(tmp_path: Path) -> ResampleConfig:
    """A run of three small cases."""
    return ResampleConfig(
        data=make_data(tmp_path / "data"),
        weights=make_weights(tmp_path / "weights"),
        out=tmp_path / "run",
        informed=("own",),
    )


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs work in this process, one row after the other: for tests of what a job makes."""
    work_here(monkeypatch)


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three volumes with their own slices, made without Ray; copy it."""
    place = tmp_path_factory.mktemp("made")
    folder = RunFolder(place / "run")
    folder.create()
    task = WorkerTask(
        root=folder.root,
        data=make_data(place / "data"),
        weights=place,
        sampling=SamplingConfig(),
        settings_sha256=IDENTITY.settings_sha256,
        weights_sha256=IDENTITY.weights_sha256,
        code="c",
        num_threads=1,
    )
    facts = {f"case{n}": CaseFacts(12 + 2 * n, True) for n in range(3)}
    rows = build_plan(facts, list(facts), "own", 1, 5)
    settle_identity(folder, IDENTITY)
    settle_plan(folder, lambda: rows)
    worker = ResampleWorker(task, LoadFake())
    for row in rows:
        assert worker({"plan": row.model_dump_json()})["status"] == "committed"
    return place / "run"


@pytest.fixture
def own_run(made_run: Path, tmp_path: Path) -> Path:
    """A copy of `made_run` for one test to spoil."""
    return Path(shutil.copytree(made_run, tmp_path / "run"))
