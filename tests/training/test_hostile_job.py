"""Bad data, settings and weights, given to jobs/train_model.py: how the job itself ends."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import jobs.train_model as job
from engine.parallel.start.session import RaySession
from engine.training.config import TrainConfig
from engine.training.loop import check
from engine.training.loop.checkpoint import newest_checkpoint
from engine.training.loop.here import train_here
from engine.training.stages.base import Survey
from engine.volumes.prepared.store import read_prepared, write_prepared
from engine.volumes.volume import PreparedCase
from models.weights.folder import CONFIG
from tests.runs.fakes import make_data

MakeConfig = Callable[..., TrainConfig]
Copy = Callable[[Path], Path]
Ended = Callable[[TrainConfig | Path], str]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tells whether a stage was begun; Ray must not be."""
    started: list[str] = []

    def begin(found: Survey) -> dict[str, Any]:
        started.append(found.config.stage)
        return train_here(found)

    monkeypatch.setattr(RaySession, "start", lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.setattr(job, "train_here", begin)
    return started


@pytest.fixture
def ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ended:
    """Runs the job, which must refuse in one line with a remedy; returns the line."""

    def end(config: TrainConfig | Path) -> str:
        path = tmp_path / "train.yaml"
        if isinstance(config, TrainConfig):
            path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        else:
            path = config
        capsys.readouterr()
        assert job.main(["--config", str(path)]) == 2
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        (line,) = shown.err.splitlines()
        assert line.startswith("error: ")
        assert line.isprintable()
        assert ";" in line or "(see --help" in line, line
        return line

    return end


EARLY = [
    ({"stage": "autoencoder", "data": "gone"}, "gone: no prepared case to train on; run"),
    ({"stage": "autoencoder", "preset": "../nope"}, r"preset '\.\./nope'; choose one of"),
    ({"stage": "autoencoder", "preset": "gem3d_256"}, "takes 256 px squares"),
    ({"stage": "autoencoder", "denoiser": {"nope": 1}}, "nope: Extra inputs are not permitted"),
    ({"stage": "slice"}, "autoencoder.safetensors: not found; run the earlier stage"),
    ({"stage": "autoencoder", "work": "train.yaml"}, "train.yaml: cannot be written .*--work"),
    ({"stage": "autoencoder", "weights": "train.yaml"}, "train.yaml: cannot be written .*--weig"),
]


@pytest.mark.parametrize(("changes", "told"), EARLY)
def test_refused_before_anything_is_started(
    changes: dict[str, object],
    told: str,
    make_config: MakeConfig,
    started: list[str],
    ended: Ended,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ended(make_config(tmp_path, **changes))
    assert _found(told, line)
    assert not started


TEXTS = [
    ("stage: segment", "`stage`: Input should be"),
    ("stage: distill", "stage distill needs start_from"),
    ("learning_rate: .nan", "`learning_rate`: .*finite"),
    ("learning_rate: -0.1", "`learning_rate`: .*greater than 0"),
    ("zero_stage: 3", "`zero_stage`: Input should be"),
    ("holdout: {a: 1}", "`holdout`: .*valid tuple"),
    ("pickle: yes", "`pickle`: Extra inputs"),
]


@pytest.mark.parametrize(("text", "told"), TEXTS)
def test_settings_that_are_none(
    text: str, told: str, started: list[str], ended: Ended, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert _found(told, ended(path))
    assert not started


def test_cases_that_cannot_be_trained_on(
    make_config: MakeConfig, data: Path, started: list[str], ended: Ended, tmp_path: Path
) -> None:
    small = make_data(tmp_path / "small", num_cases=1)
    assert "case0: slices of (32, 32), but" in ended(make_config(tmp_path, data=small))
    masks = make_data(tmp_path / "masks", num_cases=1, without_image=("case0",))
    assert "case0: has no image; train" in ended(make_config(tmp_path, data=masks))
    mixed = _changed(data, tmp_path / "mixed", class_names=("a", "b", "c", "d", "body"))
    _changed(data, mixed, name="phantom0001")
    assert "phantom0001: classes" in ended(make_config(tmp_path, data=mixed))
    (mixed / "phantom0001.zarr" / "zarr.json").write_text('{"zarr_format": 3')
    assert "phantom0001.zarr: damaged" in ended(make_config(tmp_path, data=mixed))
    assert not started


def test_weights_that_are_cut_off(
    copied: Copy, make_config: MakeConfig, started: list[str], ended: Ended, tmp_path: Path
) -> None:
    path = copied(tmp_path) / "weights" / CONFIG
    path.write_text(path.read_text()[:99])
    assert "config.json: not a model configuration" in ended(make_config(tmp_path, stage="slice"))
    assert not started


def test_what_only_the_training_sees_ends_as_clearly(
    copied: Copy,
    make_config: MakeConfig,
    data: Path,
    started: list[str],
    ended: Ended,
    tmp_path: Path,
) -> None:
    folder = copied(tmp_path)
    weights = _bytes(folder / "weights")
    short = _changed(data, tmp_path / "short", cut=9)
    line = ended(make_config(folder, stage="volume", data=short))
    assert "none of 1 cases has the 16 slices of a window; give longer" in line
    empty = _changed(data, tmp_path / "empty", mask=np.zeros_like(_case(data).mask))
    assert "all 1 masks are empty; prepare" in ended(make_config(folder, stage="slice", data=empty))
    wild = {"learning_rate": 1e30, "grad_clip": 1e30, "warmup": 0, "checkpoint_steps": 1}
    config = make_config(folder, stage="slice", num_iterations=9, **wild)
    assert _found(r"(loss|gradient) is (nan|inf) at step \d; lower", ended(config))
    kept = newest_checkpoint(config)
    assert kept is not None
    assert "other settings (learning_rate); restore" in ended(
        config.model_copy(update={"learning_rate": 1e-3})
    )
    assert newest_checkpoint(config) == kept, "a good checkpoint stays"
    assert _bytes(folder / "weights") == weights
    assert started, "these are seen by the stage itself"


def _case(data: Path) -> PreparedCase:
    return read_prepared(data / "phantom0000.zarr")


def _changed(
    data: Path, out: Path, name: str = "phantom0000", cut: int | None = None, **changes: object
) -> Path:
    """A data set of one case with other fields; or the first slices of it."""
    case = read_prepared(data / f"{name}.zarr")
    assert case.image is not None
    if cut is not None:
        changes = {"mask": case.mask[:cut], "image": case.image[:cut]}
    write_prepared(out / f"{name}.zarr", PreparedCase(**{**vars(case), **changes}))
    return out


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _found(told: str, line: str) -> bool:

    assert re.search(told, line), line
    return True


def test_private_folders_are_their_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "survey", lambda config: config)
    before = os.umask(0o022)
    try:
        places = {"work": tmp_path / "work", "weights": tmp_path / "weights"}
        check.check_stage(TrainConfig(data=tmp_path, private=True, **places))
        assert not [place for place in places.values() if place.stat().st_mode & 0o077]
    finally:
        os.umask(before)
