"""Configuration: frozen pydantic models <- one YAML file <- command-line overrides.

Knows nothing of what the settings mean; rooms define their own models on `FrozenConfig`.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import ConfigError


class FrozenConfig(BaseModel):
    """Base of all settings: immutable, unknown keys refused, defaults validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=BaseModel)


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
    try:
        return tyro.cli(
            kind,
            args=list(args),
            default=base,
            description=description,
            config=(tyro.conf.AvoidSubcommands,),
        )
    except ValidationError as error:
        raise ConfigError(_explain(error, "command line")) from None


def parse_job(kind: type[C], args: Sequence[str], about: str, defaults: Path | None = None) -> C:
    """A job's configuration from its command line: `--config FILE.yaml`, then single keys.

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
    return load_config(kind, known.config, rest, description=about)


def validate(kind: type[C], raw: Any, *, where: str) -> C:
    """Turn a plain mapping into `kind`, or raise a ConfigError that names `where` and the key."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the configuration ({error.strerror}); give an existing YAML file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error}); correct that line") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: the top level is not a mapping; write `key: value` lines")
    return raw


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(top level)"
        lines.append(f"{where}: `{key}`: {item['msg']}")
    return "; ".join(lines) + " (see --help for the known keys)"
