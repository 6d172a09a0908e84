"""Where the paths of a job lead: each is made absolute once, before anything else sees it.

Ray moves its workers (Ray Train's even within a job) to folders of their own, where a relative path
means something else. A path that a job writes lies below the current directory; when Ray runs the
job in a temporary copy of the code (`ray job submit --working-dir`), below GEM3D_RUNS, or `gem3d`
in the home folder, because results must not vanish with that copy. A path that a job reads is
looked for in the current directory, where submitted jobs write, and in the code's checkout.
Settings say by `READ` and `WRITTEN` which they are. Knows no job, and no object stores: an address
is no `Path` and stays as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parents[1]
_RAYS_COPIES = "runtime_resources"  # the folder of Ray's temporary copies

C = TypeVar("C", bound=BaseModel)


@dataclass(frozen=True)
class PathUse:
    """What a job does with the path in a setting: `Annotated[Path, READ]` (`| None`).

    Attributes:
        writes: the job makes it, or what an earlier job made there is changed.
        below: another setting: a folder in which the path is looked for, too.
    """

    writes: bool
    below: str = ""


READ = PathUse(writes=False)
WRITTEN = PathUse(writes=True)


def resolve_paths(config: C) -> C:
    """The same settings with every path absolute; a second call changes nothing.

    Raises:
        ConfigError: a path of `below` is in neither folder.
        TypeError: a setting holds a path and does not say what for.
    """
    changes: dict[str, object] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            changes[name] = resolve_paths(value)
        elif isinstance(value, Path):
            use = path_use(field)
            if use is None:
                raise TypeError(f"{type(config).__name__}.{name}: annotate it READ or WRITTEN")
            root = getattr(config, use.below, None) if use.below else None
            changes[name] = path_to_write(value) if use.writes else _read(value, name, root)
    return config.model_copy(update=changes)


def path_use(field: FieldInfo) -> PathUse | None:
    """What a setting's path is for; also of `Annotated[Path, READ] | None`."""
    notes = [*field.metadata, *(get_args(kind) for kind in get_args(field.annotation))]
    flat = [*notes, *(note for some in notes if isinstance(some, tuple) for note in some)]
    return next((note for note in flat if isinstance(note, PathUse)), None)


def path_to_write(path: Path) -> Path:
    """The absolute path of what a job writes."""
    return _output_folder() / _home(path)


def path_to_read(path: Path) -> Path:
    """The absolute path of what a job reads; of what is nowhere, where a job would write it."""
    return next((place for place in _places(path) if place.exists()), path_to_write(path))


def _read(path: Path, name: str, root: Path | None) -> Path:
    if root is None or _home(path).is_absolute():
        return path_to_read(path)
    inside = path_to_read(root) / path
    for place in (*_places(path), inside):
        if place.exists():
            return place
    outside = path_to_write(path)
    raise ConfigError(
        f"{name}: neither {outside} nor {inside} is there; give an existing folder with --{name}"
    )


def _places(path: Path) -> list[Path]:
    """Where a path that is read may be; one place when it is absolute."""
    folders = dict.fromkeys([_current(), _output_folder(), CHECKOUT])
    return list(dict.fromkeys(folder / _home(path) for folder in folders))


def _home(path: Path) -> Path:
    """`~` in a YAML file, which no shell has replaced."""
    return path.expanduser() if path.parts[:1] == ("~",) else path


def _output_folder() -> Path:
    if _RAYS_COPIES not in _current().parts:
        return _current()
    return Path(os.environ.get("GEM3D_RUNS") or Path.home() / "gem3d").absolute()


def _current() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ConfigError(
            "the current directory is gone; change to one that exists, and start again"
        ) from None
