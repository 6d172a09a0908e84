"""A place in an object store, with the part of `pathlib.Path` that runs need.

Objects are written whole or not at all, and there are no folders: a "folder" is what the names of
objects begin with. Nothing can be renamed. Pickles as its address alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TextIO

from engine.storage.objects.client import call

_BLOCK = 8 << 20


class ObjectStat(NamedTuple):
    """What `ObjectPath.stat` tells, as `os.stat_result` names it."""

    st_size: int


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or what the names of objects begin with.

    Attributes:
        url: for example `s3://bucket/runs/mine`, without a slash at its end.

    Every method that asks the store raises StoreError when the store cannot be used.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part without what follows its last dot."""
        name, dot, suffix = self.name.rpartition(".")
        return name if dot and name else suffix

    @property
    def parent(self) -> ObjectPath:
        """Without the last part."""
        return ObjectPath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> ObjectPath:
        """The same with another last part."""
        return self.parent / name

    def read_bytes(self) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: it is not there.
        """
        return bytes(call(self.url, lambda store: store.cat_file(self.url)))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole object as text; see `read_bytes`."""
        return self.read_bytes().decode(encoding)

    def open(self, encoding: str = "utf-8", errors: str = "strict") -> TextIO:
        """The object as text, read in blocks.

        Raises:
            FileNotFoundError: it is not there.
        """
        return io.TextIOWrapper(self.open_bytes(), encoding, errors)

    def open_bytes(self) -> io.BufferedReader:
        """The object's bytes, read in blocks; see `open`."""
        return io.BufferedReader(_Blocks(self), _BLOCK)

    def write_bytes(self, data: bytes) -> None:
        """Replace the whole object: readers see the old one or the new one."""
        call(self.url, lambda store: store.pipe_file(self.url, data))

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Replace the whole object by a text."""
        self.write_bytes(text.encode(encoding))

    def write_new(self, data: bytes) -> bool:
        """Create the object; of several writers one succeeds where the store can say which.

        Returns:
            False when there was one with other bytes. (One with these bytes is our own: the answer
            to an earlier try was lost.)
        """
        try:
            call(self.url, lambda store: store.pipe_file(self.url, data, mode="create"))
        except FileExistsError:
            return self.read_bytes() == data
        return True

    def stat(self) -> ObjectStat:
        """The object's size.

        Raises:
            FileNotFoundError: it is not there.
        """
        return ObjectStat(int(self._info()["size"]))

    def modified_at(self) -> float | None:
        """When the object was written, by the store's clock, seconds since 1970.

        Returns:
            None where this kind of store does not tell.

        Raises:
            FileNotFoundError: it is not there.
        """

        def ask(store: Any) -> float | None:
            try:
                return float(store.modified(self.url).timestamp())
            except (NotImplementedError, AttributeError, TypeError, KeyError):
                return None

        return call(self.url, ask)

    def is_file(self) -> bool:
        """Whether this is an object."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        return self._kind() == "directory"

    def exists(self) -> bool:
        """Whether this is an object, or there are some below."""
        return bool(self._kind())

    def iterdir(self) -> Iterator[ObjectPath]:
        """One level below, sorted; nothing when there is nothing."""
        try:
            found = call(self.url, lambda store: store.ls(self.url, detail=False))
        except FileNotFoundError:
            return
        names = {name.rstrip("/").partition("/")[0] for name in self._below(found)}
        yield from (self / name for name in sorted(names - {""}))

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Those of `iterdir` whose name fits a pattern of one level."""
        return (place for place in self.iterdir() if fnmatchcase(place.name, pattern))

    def sizes(self) -> dict[str, int]:
        """Bytes of every object below, by its name relative to this one, sorted."""
        found = call(self.url, lambda store: store.find(self.url, detail=True))
        inside = self._below(found)
        return {name: int(found[inside[name]]["size"]) for name in sorted(inside)}

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: names need no folder."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete one object.

        Raises:
            FileNotFoundError: it is not there, and that is not ok.
        """
        try:
            call(self.url, lambda store: store.rm_file(self.url))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Delete every object that is listed below, each by its own name.

        (fsspec's recursive `rm` takes a name with `[`, `*` or `?` for a pattern, and deletes what
        fits it.)
        """
        for name in self.sizes():
            (self / name).unlink(missing_ok=True)

    def _below(self, found: Iterable[object]) -> dict[str, Any]:
        """Listed names that lie below this one: relative to it -> as listed."""
        base = self.url.partition("://")[2].strip("/") + "/"
        return {
            str(name).lstrip("/").removeprefix(base): name
            for name in found
            if str(name).lstrip("/").startswith(base)
        }

    def _info(self) -> dict[str, Any]:
        return dict(call(self.url, lambda store: store.info(self.url)))

    def _kind(self) -> str:
        try:
            return str(self._info()["type"])
        except FileNotFoundError:
            return ""


class _Blocks(io.RawIOBase):
    """An object's bytes, block by block."""

    def __init__(self, place: ObjectPath) -> None:
        self._place = place
        self._size = place.stat().st_size
        self._offset = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        end = min(self._offset + len(buffer), self._size)
        if end <= self._offset:
            return 0
        url, start = self._place.url, self._offset
        data = call(url, lambda store: store.cat_file(url, start=start, end=end))
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)
