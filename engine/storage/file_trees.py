"""What lies in a folder, told apart: regular files, and what no stored volume may hold.

`Path.rglob` passes over folders that it may not read and says nothing; pipes, sockets and devices
would be waited for when they are opened. Both are told here by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import MalformedFileError
from engine.storage.disk_files import odd_kind


@dataclass(frozen=True)
class FileTree:
    """The content of a folder.

    Attributes:
        files: regular files (or links to some), by relative name with `/`, sorted.
        odd: other things, and folders that cannot be read: relative name -> what is wrong.
    """

    files: tuple[str, ...]
    odd: dict[str, str] = field(default_factory=dict)


def look_through(folder: Path) -> FileTree:
    """All that lies below a folder; follows links to files, and none to folders."""
    files: list[str] = []
    odd: dict[str, str] = {}

    def unreadable(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return  # somebody deletes here, or there is nothing at all
        name = Path(os.fsdecode(error.filename)).relative_to(folder).as_posix()
        odd[name] = f"cannot be read ({error.strerror})"

    for place, folders, names in os.walk(folder, onerror=unreadable):
        base = Path(place)
        for name in [*names, *(n for n in folders if (base / n).is_symlink())]:
            relative = (base / name).relative_to(folder).as_posix()
            try:
                kind = odd_kind((base / name).stat().st_mode)
                if kind and (base / name).is_symlink():
                    kind = f"a link to {kind}"
            except FileNotFoundError:
                kind = "a link to nothing"
            except OSError as error:
                kind = f"cannot be read ({error.strerror})"
            if kind:
                odd[relative] = kind if kind.startswith("cannot") else f"is {kind}"
            else:
                files.append(relative)
    return FileTree(tuple(sorted(files)), dict(sorted(odd.items())))


def odd_names(tree: FileTree, is_read: Callable[[str], bool]) -> dict[str, str]:
    """What is odd among the names that somebody reads, and all that cannot be looked into."""
    return {n: kind for n, kind in tree.odd.items() if kind.startswith("cannot") or is_read(n)}


def refuse_odd(folder: Path, tree: FileTree, is_read: Callable[[str], bool]) -> None:
    """Refuse a folder in which a name that somebody reads is no readable file.

    Raises:
        MalformedFileError: names the first.
    """
    for name, kind in odd_names(tree, is_read).items():
        raise MalformedFileError(f"{folder}: {name} {kind}")
