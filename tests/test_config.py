"""Configuration: YAML, then the command line; errors name file and key."""

import pickle
from pathlib import Path

import pytest

from engine import errors
from engine.config import FrozenConfig, load_config, parse_job


class Inner(FrozenConfig):
    steps: int = 10


class Settings(FrozenConfig):
    name: str = "a"
    inner: Inner = Inner()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def test_the_command_line_overrides_the_file_which_overrides_the_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "name: b\ninner: {steps: 20}\n")
    assert parse_job(Settings, [], "About.") == Settings()
    assert parse_job(Settings, [], "About.", path).inner.steps == 20
    found = parse_job(Settings, ["--inner.steps", "30", "--config", str(path)], "About.")
    assert (found.name, found.inner.steps) == ("b", 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam: b\n", "`nam`"),
        ("inner: {step: 3}\n", "`inner.step`"),
        ("inner: {steps: many}\n", "`inner.steps`"),
        ("- a\n- b\n", "not a mapping"),
        ("name: [unclosed\n", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(errors.ConfigError) as caught:
        load_config(Settings, path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"nowhere\.yaml.*existing YAML file"):
        load_config(Settings, tmp_path / "nowhere.yaml")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().name = "c"  # type: ignore[misc]


def test_every_error_survives_the_way_between_processes() -> None:
    own = [k for k in vars(errors).values() if getattr(k, "__module__", "") == errors.__name__]
    kinds = [k for k in own if isinstance(k, type)]
    assert len(kinds) > 5
    for kind in kinds:
        again = pickle.loads(pickle.dumps(kind("what, where, what to do")))
        assert type(again) is kind
        assert str(again) == "what, where, what to do"
        assert issubclass(kind, errors.EngineError)
