from pathlib import Path

import pytest

from engine.errors import RunError, StoreError, WeightsError
from engine.runs.record.identity import (
    RUN_FORMAT,
    RunIdentity,
    code_commit,
    code_versions,
    hash_weights,
    read_identity,
    write_or_check,
)
from tests.runs.fakes import make_weights

IDENTITY = RunIdentity(
    job="resample",
    settings={"seed": 0, "cases": None, "sampling": {"solver": "ddim", "steps": 10}},
    weights_sha256="w",
    weights={"config.json": "1", "denoiser.safetensors": "2"},
    data={"prepared cases": "d"},
    machine={"num_workers": 1},
    versions=code_versions(),
    code=code_commit(),
)


def changed(**update: object) -> RunIdentity:
    return IDENTITY.model_copy(update=update)


def test_run_yaml_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    write_or_check(path, IDENTITY)
    assert read_identity(path) == IDENTITY
    write_or_check(path, IDENTITY)


def test_other_machines_and_versions_may_go_on(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    write_or_check(path, IDENTITY)
    write_or_check(path, changed(machine={"num_workers": 8}, versions={"torch": "9"}, code="else"))
    assert read_identity(path) == IDENTITY


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"settings": {**IDENTITY.settings, "seed": 1}}, "settings.seed was 0, is now 1"),
        (
            {"settings": {**IDENTITY.settings, "sampling": {"solver": "dpmpp_2m", "steps": 10}}},
            "settings.sampling.solver was ddim, is now dpmpp_2m",
        ),
        ({"settings": {**IDENTITY.settings, "cases": ["a"]}}, "settings.cases was None"),
        (
            {"weights": {**IDENTITY.weights, "denoiser.safetensors": "3"}},
            r"weights.denoiser.safetensors was 2, is now 3",
        ),
        ({"data": {"prepared cases": "e"}}, "data.prepared cases was d, is now e"),
        ({"job": "harmonize"}, "job was resample"),
    ],
)
def test_a_difference_is_refused_by_its_name(
    tmp_path: Path, update: dict[str, object], message: str
) -> None:
    path = tmp_path / "run.yaml"
    write_or_check(path, IDENTITY)
    with pytest.raises(RunError, match=message):
        write_or_check(path, changed(**update))


def test_settings_and_data_name_the_origin() -> None:
    assert IDENTITY.settings_sha256 == changed(machine={}).settings_sha256
    assert IDENTITY.settings_sha256 != changed(data={"prepared cases": "e"}).settings_sha256


def test_a_run_of_a_later_version_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    write_or_check(path, IDENTITY)
    later = f"format: {RUN_FORMAT + 1}\nsomething: new\n"
    path.write_text(later)
    with pytest.raises(RunError, match=rf"run format {RUN_FORMAT + 1}, made by a later version"):
        read_identity(path)


def test_a_damaged_run_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("job: [")
    with pytest.raises(StoreError, match="not a run description"):
        write_or_check(tmp_path / "run.yaml", IDENTITY)


def test_weights_are_hashed_by_file(tmp_path: Path) -> None:
    digest, files = hash_weights(make_weights(tmp_path))
    (tmp_path / "denoiser.safetensors").write_bytes(b"retrained")
    other, changed_files = hash_weights(tmp_path)
    assert digest != other
    assert [n for n in files if files[n] != changed_files[n]] == ["denoiser.safetensors"]
    (tmp_path / "denoiser.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"denoiser\.safetensors: not found"):
        hash_weights(tmp_path)
