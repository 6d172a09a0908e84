"""Zarr groups on disk and in object stores, written whole and read whole.

In an object store a group is built in memory and its objects are put one by one, the root's
metadata last; to read it, they are fetched first. A group is a handful of objects (one shard an
array), so this asks the store least, and every call is retried the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import zarr
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from engine.errors import StoreError
from engine.volumes.durable import flush_tree, store_writing, whole_folder
from engine.volumes.object_path import ObjectPath
from engine.volumes.places import Place

_ROOT = "zarr.json"


@contextmanager
def new_group(place: Place, sent: dict[str, str]) -> Iterator[zarr.Group]:
    """A group to fill, flushed at the end; nobody else writes there.

    Args:
        place: of the group; must not exist.
        sent: gets the sha256 of every object by name, in an object store; a disk keeps its own
            counsel, and only reading back tells.

    Raises:
        StoreError: it cannot be written.
    """
    if isinstance(place, ObjectPath):
        held: dict[str, Buffer] = {}
        yield zarr.open_group(MemoryStore(held), mode="w-", zarr_format=3)
        sent.update(_upload(place, held))
        return
    with store_writing(place, place):
        yield zarr.open_group(str(place), mode="w-", zarr_format=3)
        flush_tree(place)


@contextmanager
def whole_group(place: Place) -> Iterator[zarr.Group]:
    """A group to fill, which then takes the place of an older one.

    On disk, all of it or nothing. In an object store a reader may meet it half written: what must
    be whole names its own digests.

    Raises:
        StoreError: it cannot be written.
    """
    if isinstance(place, ObjectPath):
        with new_group(place, {}) as group:
            yield group
        return
    with whole_folder(place) as staged:
        yield zarr.open_group(str(staged), mode="w-", zarr_format=3)


@contextmanager
def stored_group(
    place: Place, *, metadata_only: bool = False
) -> Iterator[tuple[zarr.Group, Callable[[str], int]]]:
    """A group to read, and a function from a file's name to its bytes (0 where there is none).

    Args:
        place: of the group.
        metadata_only: fetch no voxels from an object store.

    Raises:
        FileNotFoundError: there is nothing.
    """
    if isinstance(place, Path):
        yield zarr.open_group(str(place), mode="r", zarr_format=3), lambda name: _size(place / name)
        return
    make = default_buffer_prototype().buffer.from_bytes
    names = [n for n in place.sizes() if not metadata_only or n.rpartition("/")[2] == _ROOT]
    if not names:
        raise FileNotFoundError(str(place))
    held = {name: make((place / name).read_bytes()) for name in names}
    store = MemoryStore(held, read_only=True)
    yield zarr.open_group(store, mode="r", zarr_format=3), lambda n: len(held.get(n, b""))


def hash_files(place: Place, expected: Mapping[str, str]) -> dict[str, str]:
    """sha256 of every file of a place, by its relative name with `/`, sorted.

    Args:
        place: whose files are read.
        expected: what they must be; empty is unknown.

    Raises:
        StoreError: no file is there, or they are not as expected.
    """
    if isinstance(place, Path):
        files = sorted(p for p in place.rglob("*") if p.is_file())
        found = {}
        for file in files:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            found[file.relative_to(place).as_posix()] = digest.hexdigest()
    else:
        found = {name: _sha256((place / name).read_bytes()) for name in place.sizes()}
    if not found:
        raise StoreError(f"{place}: no files there; make it again")
    if expected and found != expected:
        wrong = sorted(n for n in {**expected, **found} if expected.get(n) != found.get(n))
        raise StoreError(
            f"{place}: reads back otherwise than it was written ({', '.join(wrong)}); make it again"
        )
    return found


def _upload(place: ObjectPath, held: Mapping[str, Buffer]) -> dict[str, str]:
    """Put every object, the root's metadata last."""
    sent = {}
    for name in sorted(held, key=lambda name: (name == _ROOT, name)):
        data = held[name].to_bytes()
        (place / name).write_bytes(data)
        sent[name] = _sha256(data)
    return dict(sorted(sent.items()))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
