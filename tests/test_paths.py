"""Every path of every job is absolute before anything else sees it, by one rule."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.config import FrozenConfig, parse_job
from engine.errors import ConfigError
from engine.paths import CHECKOUT, READ, WRITTEN, PathUse, path_to_read, path_use, resolve_paths
from engine.storage.objects.path import ObjectPath
from engine.storage.places import PlaceField

JOBS = sorted(path.stem for path in (CHECKOUT / "jobs").glob("*.py"))


def settings_of(job: str, monkeypatch: pytest.MonkeyPatch) -> type[FrozenConfig]:
    """The settings that a job asks `parse_job` for."""
    kinds: list[type[FrozenConfig]] = []

    def note(kind: type[FrozenConfig], *_args: Any, **_more: Any) -> None:
        kinds.append(kind)
        raise ConfigError("enough")

    module = importlib.import_module(f"jobs.{job}")
    monkeypatch.setattr(module, "parse_job", note)
    assert module.main([]) == 2
    return kinds[0]


def holds_paths(annotation: Any) -> bool:
    return annotation in (Path, ObjectPath) or any(holds_paths(a) for a in get_args(annotation))


def path_fields(kind: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting that can hold a path, by its name in YAML, however deep."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from path_fields(field.annotation, f"{above}{name}.")
        elif holds_paths(field.annotation):
            yield f"{above}{name}", field


@pytest.mark.parametrize("job", JOBS)
def test_no_relative_path_survives(
    job: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind = settings_of(job, monkeypatch)
    fields = dict(path_fields(kind))
    assert fields, "every job has a place to read or to write"
    for name, field in fields.items():
        assert path_use(field) is not None, name
        assert "." not in name, "resolve_paths looks into nested settings; this test does not yet"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for name in fields:
        given = {name: f"here/{name}", **COMPANIONS.get(name, {})}
        known = {key: value for key, value in given.items() if key in kind.model_fields}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(known))
        config = parse_job(kind, ["--config", "mine.yaml"], "About.")
        assert getattr(config, name) == tmp_path / "here" / name
        for other in fields:
            value = getattr(config, other)
            assert value is None or value.is_absolute(), other
        assert resolve_paths(config) == config, "a second call changes nothing"


# settings that go together
COMPANIONS: dict[str, dict[str, Any]] = {
    "table": {"data": "here"},
    "data": {"table": "here"},
    "drawn": {"cases": ["pat2"]},
    "redrawn": {"method": "redrawn"},
}


class Places(FrozenConfig):
    read: Annotated[Path, READ] | None = None
    made: Annotated[PlaceField, WRITTEN] = Path("runs/made")
    part: Annotated[Path, PathUse(writes=False, below="read")] | None = None


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory is one of Ray's temporary copies; GEM3D_RUNS is `kept`."""
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("GEM3D_RUNS", str(tmp_path / "kept"))
    return copy


def test_a_submitted_job_finds_what_another_one_wrote(copy: Path, tmp_path: Path) -> None:
    made = resolve_paths(Places()).made
    assert made == tmp_path / "kept" / "runs" / "made"
    assert resolve_paths(Places(read=Path("runs/made"))).read == made, "named where it belongs"
    made.mkdir(parents=True)
    assert resolve_paths(Places(read=Path("runs/made"))).read == made
    (copy / "weights").mkdir()
    assert resolve_paths(Places(read=Path("weights"))).read == copy / "weights", "sent along"


def test_what_is_read_falls_back_to_the_checkout_and_what_is_written_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = resolve_paths(Places(read=Path("jobs/configs"), made=Path("jobs/configs")))
    assert config.read == CHECKOUT / "jobs" / "configs"
    assert config.made == tmp_path / "jobs" / "configs"
    (tmp_path / "jobs" / "configs").mkdir(parents=True)
    assert path_to_read(Path("jobs/configs")) == tmp_path / "jobs" / "configs"


def test_a_configuration_of_the_checkout_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"prepare_abdomen_ct.yaml: `prepare`"):
        parse_job(Places, ["--config", "jobs/configs/prepare_abdomen_ct.yaml"], "About.")


def test_addresses_and_absolute_paths_stay_and_the_home_folder_is_known(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    places = resolve_paths(Places(read=Path("~/a"), made=ObjectPath("s3://bucket/run")))
    assert places == Places(read=tmp_path / "home" / "a", made=ObjectPath("s3://bucket/run"))
    assert resolve_paths(Places(made=tmp_path / "b")).made == tmp_path / "b"
    assert resolve_paths(Places(made=Path("~a/b"))).made == tmp_path / "kept" / "~a" / "b"


def test_a_part_is_looked_for_here_and_then_below_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = Places(read=Path("set"), part=Path("imgs"))
    with pytest.raises(ConfigError, match=rf"part: neither {tmp_path}/imgs nor {tmp_path}/set/im"):
        resolve_paths(wanted)
    (tmp_path / "set" / "imgs").mkdir(parents=True)
    assert resolve_paths(wanted).part == tmp_path / "set" / "imgs"
    (tmp_path / "imgs").mkdir()
    assert resolve_paths(wanted).part == tmp_path / "imgs"


def test_a_current_directory_that_is_gone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the current directory is gone"):
        resolve_paths(Places())


def test_a_path_without_a_use_is_a_fault_of_ours() -> None:
    class Forgotten(FrozenConfig):
        out: Path = Path("runs")

    with pytest.raises(TypeError, match=r"Forgotten\.out: annotate"):
        resolve_paths(Forgotten())
