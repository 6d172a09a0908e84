"""Zarr groups on disk and in object stores, written whole and read whole.

In an object store a group is built in memory and its objects are put one by one, the root's
metadata last; to read it, they are fetched first. A group is a handful of objects (one shard an
array), so this asks the store least, and every call is retried the same way. A missing shard reads
as fill value without an error, so `read_array` asks for it first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from engine.errors import StoreError
from engine.storage.backends.find import storage_at
from engine.storage.checked_files import read_json
from engine.storage.durable import flush_tree, store_writing, whole_folder
from engine.storage.file_trees import look_through, refuse_odd
from engine.storage.foreign import is_read
from engine.storage.places import Place
from engine.storage.zarr_groups.limits import refuse_large, refuse_large_frames

_ROOT = "zarr.json"
_SLICES_PER_CHUNK = 16
_ZSTD_LEVEL = 3


@dataclass(frozen=True)
class StoredFiles:
    """The files of a stored group, by their name relative to it.

    Attributes:
        place: of the group.
        held: what was fetched from an object store; None on disk.
    """

    place: Place
    held: Mapping[str, Buffer] | None = None

    def size(self, name: str) -> int:
        """Bytes of a file; 0 where there is none."""
        if self.held is not None:
            return len(self.held.get(name, b""))
        file = self.place / name
        return file.stat().st_size if file.is_file() else 0

    def read(self, name: str) -> bytes:
        """A whole file."""
        if self.held is not None:
            return self.held[name].to_bytes()
        return (self.place / name).read_bytes()


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
    path = storage_at(place).local
    if path is None:
        held: dict[str, Buffer] = {}
        yield zarr.open_group(MemoryStore(held), mode="w-", zarr_format=3)
        sent.update(_upload(place, held))
        return
    with store_writing(path, path):
        yield zarr.open_group(path, mode="w-", zarr_format=3)
        flush_tree(path)


@contextmanager
def whole_group(place: Place) -> Iterator[zarr.Group]:
    """A group to fill, which then takes the place of an older one.

    On disk, all of it or nothing. In an object store a reader may meet it half written: what must
    be whole names its own digests.

    Raises:
        StoreError: it cannot be written.
    """
    path = storage_at(place).local
    if path is None:
        with new_group(place, {}) as group:
            yield group
        return
    with whole_folder(path) as staged:
        yield zarr.open_group(staged, mode="w-", zarr_format=3)


@contextmanager
def stored_group(
    place: Place, arrays: Collection[str] | None = None
) -> Iterator[tuple[zarr.Group, StoredFiles]]:
    """A group to read, and the files that it is made of.

    Args:
        place: of the group.
        arrays: whose voxels are fetched from an object store; None is all. Metadata always come.

    Raises:
        FileNotFoundError: there is nothing.
    """
    storage = storage_at(place)
    if storage.local is not None:
        _refuse_unreadable(storage.local)
        yield zarr.open_group(storage.local, mode="r", zarr_format=3), StoredFiles(place)
        return
    make = default_buffer_prototype().buffer.from_bytes
    names = [
        name
        for name in filter(is_read, storage.sizes())
        if arrays is None or name.rpartition("/")[2] == _ROOT or name.partition("/")[0] in arrays
    ]
    if not names:
        raise FileNotFoundError(str(place))
    held = {name: make((place / name).read_bytes()) for name in names}
    store = MemoryStore(held, read_only=True)
    yield zarr.open_group(store, mode="r", zarr_format=3), StoredFiles(place, held)


def write_array(
    group: zarr.Group,
    name: str,
    array: NDArray[Any],
    dimension_names: tuple[str, ...] | None = None,
) -> None:
    """One shard an array, chunks along the first axis, every chunk with its checksum."""
    depth = min(_SLICES_PER_CHUNK if array.ndim > 1 else array.size, array.shape[0])
    rest = array.shape[1:]
    stored = group.create_array(
        name,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(depth, *rest),
        shards=(-(-array.shape[0] // depth) * depth, *rest),
        compressors=[ZstdCodec(level=_ZSTD_LEVEL, checksum=True)],
        fill_value=np.nan if array.dtype.kind == "f" else 0,
        dimension_names=dimension_names,
        config={"write_empty_chunks": True},
    )
    stored[...] = array


def read_array(path: Place, group: zarr.Group, name: str, files: StoredFiles) -> NDArray[Any]:
    """One array as a whole; see `write_array`.

    Raises:
        StoreError: its shard is missing or empty, or asks for more memory than such an array may.
    """
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path}: {name} is not an array; make it again")
    shard = "/".join([name, "c", *["0"] * array.ndim])  # the one that `write_array` makes
    refuse_large(f"{path}: {name}", array)
    if not files.size(shard):
        raise StoreError(f"{path}: the shard of {name} is missing; delete the folder, make it anew")
    refuse_large_frames(f"{path}: {name}", files.read(shard), array)
    return np.asarray(array[...])


def hash_files(place: Place, expected: Mapping[str, str]) -> dict[str, str]:
    """sha256 of every file of a place, by its relative name with `/`, sorted.

    Files that no reader of Zarr asks for are not among them (see `engine/storage/foreign.py`).

    Args:
        place: whose files are read.
        expected: what they must be; empty is unknown.

    Raises:
        StoreError: no file is there, or they are not as expected.
    """
    try:
        found = storage_at(place).digests(is_read)
    except FileNotFoundError:
        raise StoreError(f"{place}: vanished while it was read; make it again") from None
    if not found:
        raise StoreError(f"{place}: no files there; make it again")
    if expected and found != expected:
        wrong = sorted(n for n in {**expected, **found} if expected.get(n) != found.get(n))
        raise StoreError(
            f"{place}: reads back otherwise than it was written ({', '.join(wrong)}); make it again"
        )
    return found


def _upload(place: Place, held: Mapping[str, Buffer]) -> dict[str, str]:
    """Put every object, the root's metadata last."""
    sent = {}
    for name in sorted(held, key=lambda name: (name == _ROOT, name)):
        data = held[name].to_bytes()
        storage_at(place / name).put(data)
        sent[name] = _sha256(data)
    return dict(sorted(sent.items()))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse_unreadable(place: Path) -> None:
    """Refuse what zarr would wait for or choke on: pipes, and metadata that is no plain JSON."""
    tree = look_through(place)
    refuse_odd(place, tree, is_read)
    for name in tree.files:
        if name.rpartition("/")[2] == _ROOT:
            read_json(place / name)
