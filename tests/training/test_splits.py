"""Which prepared cases a stage trains on: those of the training split that are not held out."""

from pathlib import Path

import pytest

from engine.errors import TrainingError
from engine.training.config import TrainConfig
from engine.training.examples.cases import find_cases
from engine.training.loop.checkpoint import stage_identity
from engine.training.stages.survey import resolve_preset
from engine.volumes.prepared.manifest import read_manifest, write_manifest
from engine.volumes.prepared.store import list_prepared
from tests.runs.fakes import make_data


def names(data: Path, held_out: bool = False, **settings: object) -> list[str]:
    config = TrainConfig.model_validate({"data": data, **settings})
    return [header.case_id for header in find_cases(config, held_out=held_out)]


def test_test_cases_are_not_trained_on(tmp_path: Path) -> None:
    data = make_data(tmp_path / "d", test_cases=("case1",))
    assert names(data) == ["case0", "case2"]
    assert names(data, splits=("train", "test")) == ["case0", "case1", "case2"]
    assert names(data, holdout=("case0",)) == ["case2"]
    assert names(data, holdout=("case1",), held_out=True) == ["case1"]


def test_test_cases_alone_are_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path / "d", 2, test_cases=("case0", "case1"))
    with pytest.raises(TrainingError, match=r"no case of split train, its 2 cases are test; .*"):
        names(data)


def test_cases_of_an_unfinished_preparation_are_not_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their split is not known: the list is written at the end."""
    data = make_data(tmp_path / "d")
    manifest = read_manifest(data)
    cases = {name: case for name, case in manifest.cases.items() if name != "case1"}
    write_manifest(data, manifest.model_copy(update={"cases": cases}))
    assert names(data) == ["case0", "case2"]
    assert "1 cases are not in dataset.json and left out (case1)" in caplog.text
    (data / "dataset.json").unlink()
    assert names(data) == list_prepared(data)  # a folder made by hand
    (data / "prepare.json").write_text("{}")
    with pytest.raises(TrainingError, match="preparing was not finished"):
        names(data)


def test_checkpoints_from_before_there_were_splits_are_resumed() -> None:
    config = TrainConfig()
    preset = resolve_preset(config)
    assert "splits" not in stage_identity(config, preset)
    both = config.model_copy(update={"splits": ("train", "test")})
    assert stage_identity(both, preset)["splits"] == ["train", "test"]
