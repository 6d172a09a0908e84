import shutil
from pathlib import Path

import pytest

from engine.runs.jobs.resample import ResampleConfig, resample
from tests.runs.fakes import LoadFake, make_data, make_run, make_weights, work_here


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
def whole(tmp_path_factory: pytest.TempPathFactory) -> ResampleConfig:
    """A finished job of three volumes; copy it."""
    place = tmp_path_factory.mktemp("whole")
    config = ResampleConfig(
        data=make_data(place / "data"),
        weights=make_weights(place / "weights"),
        out=place / "run",
        informed=("own",),
        num_pictured=0,
    )
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        resample(config, LoadFake())
    return config


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three volumes with their own slices, made without Ray; copy it."""
    place = tmp_path_factory.mktemp("made")
    return make_run(place, make_data(place / "data"), {f"case{n}": 12 + 2 * n for n in range(3)})


@pytest.fixture
def own_run(made_run: Path, tmp_path: Path) -> Path:
    """A copy of `made_run` for one test to spoil."""
    return Path(shutil.copytree(made_run, tmp_path / "run"))
