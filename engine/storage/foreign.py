"""Files in a Zarr folder that its writer did not write and no reader reads.

File managers, network disks and editors leave files everywhere (`.DS_Store`, `._zarr.json`,
`Thumbs.db`, `.nfs0042`). Readers of Zarr ask for metadata and chunks by name, so that such files
change nothing. A further chunk or a further `zarr.json` is another matter: readers would find it.
Names only; opens nothing, and knows no object store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

_METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
_CHUNK = re.compile(r"(^|.*/)c(/[0-9]+)*")
_LITTER = re.compile(
    r"\.DS_Store|\._.*|Icon\r|\.AppleDouble|\.Spotlight-V100|\.Trashes|\.fseventsd|__MACOSX"
    r"|Thumbs\.db|desktop\.ini|\.directory|\.nfs[0-9A-Fa-f]+|\.fuse_hidden[0-9A-Fa-f]+|@eaDir"
    r"|\.~lock\..*#|.*~|\.[^/]*\.sw[a-p]",
    re.IGNORECASE,
)


def is_read(name: str) -> bool:
    """Whether a reader of Zarr could ask for a file, by its name relative to the group.

    >>> is_read("0/c/9/9/9"), is_read("labels/zarr.json"), is_read("0/c/0/.DS_Store")
    (True, True, False)
    """
    return name.rpartition("/")[2] in _METADATA or _CHUNK.fullmatch(name) is not None


def is_litter(name: str) -> bool:
    """Whether systems and editors leave files or folders of this name, and nobody misses them.

    >>> is_litter("._scan.nii.gz"), is_litter("notes.txt")
    (True, False)
    """
    return _LITTER.fullmatch(name.rpartition("/")[2]) is not None


def foreign_files(place: Path, own: Collection[str]) -> Iterator[str]:
    """Names below a Zarr group on a disk that are not its own and that no reader asks for.

    Args:
        place: of the group.
        own: the names of its files, relative to it.

    Yields:
        Relative names; a folder in which nothing is read ends with `/`, and what is in it is not
        named.
    """
    folders = {parent for name in own for parent in _parents(name)}
    yield from _below(place, "", own, folders)


def misplaced_links(place: Path, own: Collection[str]) -> Iterator[str]:
    """Links, and others that are no regular files, under names that readers ask for."""
    folders = {parent for name in own for parent in _parents(name)}
    for root, inside, files in os.walk(place):
        for name in (*inside, *files):
            path = Path(root, name)
            relative = path.relative_to(place).as_posix()
            read = relative in own or relative in folders or is_read(relative)
            if read and (path.is_symlink() or not (path.is_dir() or path.is_file())):
                yield relative


def _below(
    place: Path, prefix: str, own: Collection[str], folders: Collection[str]
) -> Iterator[str]:
    entries: list[os.DirEntry[str]] = []
    with suppress(OSError):  # what cannot be looked into is missing, and found as such
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if not entry.is_dir(follow_symlinks=False):
            if name not in own and name not in folders and not is_read(name):
                yield name
        elif name in folders or _holds_read(Path(entry.path), name):
            yield from _below(Path(entry.path), f"{name}/", own, folders)
        else:
            yield f"{name}/"


def _holds_read(folder: Path, name: str) -> bool:
    for root, _, files in os.walk(folder):
        below = Path(root).relative_to(folder).as_posix()
        base = name if below == "." else f"{name}/{below}"
        if any(is_read(f"{base}/{file}") for file in files):
            return True
    return False


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
