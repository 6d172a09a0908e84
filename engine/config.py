"""Configuration: frozen pydantic models <- one YAML file <- command-line overrides.

Knows nothing of what the settings mean; rooms define their own models on `FrozenConfig`.
"""

from __future__ import annotations

import io
import re
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import ConfigError, os_refusal
from engine.paths import path_to_read, resolve_paths


class FrozenConfig(BaseModel):
    """Base of all settings: immutable, unknown keys refused, defaults validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=BaseModel)
MAX_YAML_VALUES = 100_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def load_config(
    kind: type[C],
    yaml_path: Path | None = None,
    args: Sequence[str] | None = None,
    *,
    description: str | None = None,
) -> C:
    """Read `yaml_path` into `kind`, then let command-line `args` override single keys.

    Args:
        kind: the pydantic model to fill.
        yaml_path: file with a mapping at its top, or None for the defaults.
        args: command-line arguments; None leaves the command line alone.
        description: text shown by `--help`.

    Raises:
        ConfigError: unreadable YAML or a refused key; names the file and the key.
    """
    base = validate(kind, _read_yaml(yaml_path), where=str(yaml_path or "defaults"))
    if args is None:
        return base
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(
                kind,
                args=list(args),
                default=base,
                description=description,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as end:
        refused = _validation_behind(end)
        if refused is not None:  # tyro would show all of pydantic's report
            raise ConfigError(_explain(refused, "command line")) from None
        sys.stderr.write(complaint.getvalue())
        raise


def parse_job(kind: type[C], args: Sequence[str], about: str, defaults: Path | None = None) -> C:
    """A job's configuration from its command line: `--config FILE.yaml`, then single keys.

    Every path in it is absolute (see `engine.paths`).

    Args:
        kind: the job's settings.
        args: command-line arguments without the program's name.
        about: shown by `--help`.
        defaults: YAML file to start from when `--config` is not given.

    Raises:
        ConfigError: see `load_config`.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=defaults)
    known, rest = parser.parse_known_args(args)
    about = f"{about} --config FILE.yaml gives the settings to start from."
    path = path_to_read(known.config) if known.config is not None else None
    return resolve_paths(load_config(kind, path, rest, description=about))


def validate(kind: type[C], raw: Any, *, where: str) -> C:
    """Turn a plain mapping into `kind`, or raise a ConfigError that names `where` and the key."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None


def _validation_behind(error: BaseException | None) -> ValidationError | None:
    """The settings' own refusal that an error came from."""
    while error is not None and not isinstance(error, ValidationError):
        error = error.__cause__ or error.__context__
    return error


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    cannot = f"{path}: cannot read the configuration"
    try:
        with os_refusal(ConfigError, cannot, "give an existing YAML file"):
            raw = load_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error}); correct that line") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: the top level is not a mapping; write `key: value` lines")
    return raw


def load_yaml(text: str) -> Any:
    """Plain values from YAML of bounded size; no tag makes an object.

    Raises:
        ValueError: too deep, or more values than `MAX_YAML_VALUES` once its aliases are followed
            (a text of a kilobyte can stand for gigabytes), or a control character in a string.
        yaml.YAMLError: not YAML, or a tag that is not plain.
    """
    try:
        raw = yaml.safe_load(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    waiting, seen = [raw], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > MAX_YAML_VALUES:
            raise ValueError(f"stands for more than {MAX_YAML_VALUES} values; write it plainly")
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif isinstance(value, str) and _CONTROL.search(value):
            raise ValueError(f"a control character in {value[:40]!r}")
    return raw


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(top level)"
        lines.append(f"{where}: `{key}`: {item['msg']}")
    return "; ".join(lines) + " (see --help for the known keys)"


def leave_out_later(settings: dict[str, Any], later: Mapping[str, Any]) -> None:
    """Take out, in place, what older files do not name, where it is as it was then.

    So a record that an earlier version made compares equal to one that asks for nothing new.

    Args:
        settings: JSON values; nested.
        later: key, its parts joined by dots -> the value that stood for it before it had a name.

    >>> settings = {"seed": 0, "sampling": {"steps": 2, "pin": "no"}}
    >>> leave_out_later(settings, {"sampling.pin": "no"})
    >>> settings
    {'seed': 0, 'sampling': {'steps': 2}}
    """
    for key, usual in later.items():
        *parts, name = key.split(".")
        holder = settings
        for part in parts:
            holder = holder[part]
        if holder[name] == usual:
            del holder[name]
