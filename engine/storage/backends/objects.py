"""A place in an object store. See `protocol.py` for what each method promises.

Objects are written whole or not at all and cannot be renamed or grow; there are no folders. A list
of lines is a "folder" of one object a line, until `gather` puts them together.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TextIO

from engine.errors import StoreUnreachableError
from engine.storage.disk_files import too_large
from engine.storage.foreign import is_read
from engine.storage.objects.path import ObjectPath
from engine.storage.objects.versions import keeps_versions
from engine.storage.places import Place


@dataclass(frozen=True)
class ObjectStorage:
    """An object, or what the names of objects begin with."""

    place: ObjectPath

    @property
    def local(self) -> Path | None:
        """On no disk."""
        return None

    @property
    def can_rename(self) -> bool:
        """Objects cannot."""
        return False

    @property
    def can_append(self) -> bool:
        """Each line would be an object, and all of them listed again to read on."""
        return False

    def read_bytes(self, max_bytes: int) -> bytes:
        """A larger object is not fetched."""
        if self.place.stat().st_size > max_bytes:
            raise too_large(self.place, max_bytes)
        return self.place.read_bytes()

    def open(self) -> BufferedReader:
        """See `Storage.open`."""
        return self.place.open_bytes()

    def digest(self) -> str:
        """Of the object, fetched whole."""
        return hashlib.sha256(self.place.read_bytes()).hexdigest()

    @contextmanager
    def whole_file(self) -> Iterator[TextIO]:
        """Put when it is complete."""
        text = io.StringIO()
        yield text
        self.place.write_text(text.getvalue())

    def put(self, data: bytes) -> None:
        """See `Storage.put`."""
        self.place.write_bytes(data)

    def write_new(self, data: bytes) -> bool:
        """Put on condition that there is none."""
        return self.place.write_new(data)

    def renew(self, data: bytes) -> None:
        """Put again."""
        self.place.write_bytes(data)

    def modified_at(self) -> float | None:
        """See `Storage.modified_at`."""
        return self.place.modified_at()

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """A copy, for as long as it is used."""
        with tempfile.TemporaryDirectory(prefix="gem3d-") as folder:
            path = Path(folder) / self.place.name
            path.write_bytes(self.place.read_bytes())
            yield path

    @contextmanager
    def file_to_write(self) -> Iterator[Path]:
        """A file on this machine, which becomes the object afterwards."""
        with tempfile.TemporaryDirectory(prefix="gem3d-") as folder:
            path = Path(folder) / self.place.name
            yield path
            self.place.write_bytes(path.read_bytes())

    def append(self, line: str) -> None:
        """An object of its own, named by the time."""
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
        (self._lines / name).write_text(line + "\n")

    def gather(self) -> None:
        """One object of all lines, which stay."""
        lines = [part.read_bytes() for part in self._lines.iterdir()]
        if lines:
            self.place.write_bytes(b"".join(lines))

    def appended(self, max_bytes: int) -> list[bytes]:
        """See `Storage.appended`."""
        return [ObjectStorage(part).read_bytes(max_bytes) for part in self._lines.iterdir()]

    def keep_appended(self, keeps: Callable[[str], bool]) -> None:
        """See `Storage.keep_appended`."""
        for part in self._lines.iterdir():
            if not keeps(part.read_text()):
                part.unlink(missing_ok=True)

    @property
    def _lines(self) -> ObjectPath:
        return self.place.with_name(self.place.stem)

    def prepare(self, folders: tuple[Place, ...]) -> None:
        """Names need no folder; is there a bucket?"""
        next(self.place.iterdir(), None)

    def has_folder(self) -> bool:
        """Names need none."""
        return True

    def children(self) -> list[Place]:
        """See `Storage.children`."""
        return [*self.place.iterdir()]

    def folder_names(self) -> set[str]:
        """One listing: names one level below."""
        return {place.name for place in self.place.iterdir()}

    def named(self, name: str) -> list[Place]:
        """Killed writers leave nothing."""
        return [self.place / name] if (self.place / name).exists() else []

    def torn(self) -> list[Place]:
        """Objects are put whole."""
        return []

    def odd_files(self, is_read: Callable[[str], bool]) -> dict[str, str]:
        """Every object is a file."""
        return {}

    def sizes(self) -> dict[str, int]:
        """See `Storage.sizes`."""
        return self.place.sizes()

    def digests(self, is_read: Callable[[str], bool]) -> dict[str, str]:
        """Of the objects, each fetched whole."""
        names = filter(is_read, self.place.sizes())
        return {name: ObjectStorage(self.place / name).digest() for name in names}

    def foreign_files(self, own: Collection[str]) -> Iterator[str]:
        """See `Storage.foreign_files`."""
        return (name for name in self.place.sizes() if name not in own and not is_read(name))

    def misplaced_links(self, own: Collection[str]) -> Iterator[str]:
        """There are no links."""
        return iter(())

    def link_target(self) -> str | None:
        """There are no links."""
        return None

    def is_writable(self) -> bool:
        """Only trying tells."""
        return True

    def absolute(self, *, writes: bool) -> ObjectPath:
        """An address is one."""
        return self.place

    def lies_in(self, folder: Place) -> bool:
        """By its address."""
        return f"{self.place}/".startswith(f"{folder}/")

    def discard(self) -> None:
        """As `remove`: a store deletes, or cannot be used."""
        self.remove()

    def remove(self) -> None:
        """Every object below, and one of this name."""
        self.place.remove_tree()
        self.place.unlink(missing_ok=True)

    def remove_each(self, note: Callable[[str, BaseException], None]) -> None:
        """See `Storage.remove_each`."""
        try:
            self.remove()
        except StoreUnreachableError:
            raise
        except OSError as error:
            note(str(self.place), error)

    def keeps_versions(self) -> bool | None:
        """What the bucket says."""
        return keeps_versions(self.place)
