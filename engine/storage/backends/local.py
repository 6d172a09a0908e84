"""A place on a disk. See `protocol.py` for what each method promises."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TextIO

from engine.paths import path_to_read, path_to_write
from engine.storage.disk_files import (
    open_regular,
    stage,
    staged_name,
    sync_folder,
    too_large,
    write_line,
)
from engine.storage.file_trees import look_through, odd_names, refuse_odd
from engine.storage.foreign import foreign_files, misplaced_links
from engine.storage.places import Place

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class LocalStorage:
    """A file or folder of a disk."""

    place: Path

    @property
    def local(self) -> Path | None:
        """The path."""
        return self.place

    @property
    def can_rename(self) -> bool:
        """Disks can."""
        return True

    @property
    def can_append(self) -> bool:
        """Files can grow."""
        return True

    def read_bytes(self, max_bytes: int) -> bytes:
        """See `Storage.read_bytes`."""
        with open_regular(self.place) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise too_large(self.place, max_bytes)
        return data

    def open(self) -> BufferedReader:
        """See `Storage.open`."""
        return open_regular(self.place)

    def digest(self) -> str:
        """Read in blocks."""
        with open_regular(self.place) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def whole_file(self) -> Iterator[TextIO]:
        """Written under another name, flushed, renamed."""
        staged = staged_name(self.place)
        try:
            with staged.open("w", encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            staged.replace(self.place)
        finally:
            staged.unlink(missing_ok=True)
        sync_folder(self.place.parent)

    def put(self, data: bytes) -> None:
        """See `Storage.put`."""
        stage(self.place, data).replace(self.place)

    def write_new(self, data: bytes) -> bool:
        """Linked to its name, which fails where there is one."""
        staged = stage(self.place, data)
        try:
            os.link(staged, self.place)
        except FileExistsError:
            return self.place.read_bytes() == data
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._created(data)
        finally:
            staged.unlink(missing_ok=True)
        return True

    def _created(self, data: bytes) -> bool:
        """`write_new` where the file system has no hard links."""
        try:
            with self.place.open("xb") as file:
                file.write(data)
        except FileExistsError:
            return self.place.read_bytes() == data
        return True

    def renew(self, data: bytes) -> None:
        """By the file server's clock, and on a full disk, too: the content stays."""
        if self.place.exists():
            os.utime(self.place)
        else:
            self.put(data)

    def modified_at(self) -> float | None:
        """See `Storage.modified_at`."""
        return self.place.stat().st_mtime

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """The file itself."""
        yield self.place

    @contextmanager
    def file_to_write(self) -> Iterator[Path]:
        """The file itself; its folder is made."""
        self.place.parent.mkdir(parents=True, exist_ok=True)
        yield self.place

    def append(self, line: str) -> None:
        """A line that an earlier writer left torn keeps to itself: the new one begins its own."""
        # O_NONBLOCK: a FIFO without a reader is an error and not a wait
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.place, flags, 0o666)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(self.place))
            data = (line + "\n").encode()
            if status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n":
                data = b"\n" + data
            write_line(descriptor, data)
        finally:
            os.close(descriptor)

    def gather(self) -> None:
        """It is one file already."""

    def appended(self, max_bytes: int) -> list[bytes]:
        """The whole file, in one piece."""
        return [self.read_bytes(max_bytes)] if self.place.exists() else []

    def keep_appended(self, keeps: Callable[[str], bool]) -> None:
        """Lines are no files of their own."""

    def prepare(self, folders: tuple[Place, ...]) -> None:
        """See `Storage.prepare`."""
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)

    def has_folder(self) -> bool:
        """See `Storage.has_folder`."""
        return self.place.is_dir()

    def children(self) -> list[Place]:
        """See `Storage.children`."""
        return [*sorted(self.place.iterdir())] if self.place.is_dir() else []

    def folder_names(self) -> set[str]:
        """See `Storage.folder_names`."""
        with os.scandir(self.place) as entries:
            return {entry.name for entry in entries if entry.is_dir()}

    def named(self, name: str) -> list[Place]:
        """See `Storage.named`."""
        begin = f".{name}."
        return [p for p in self.children() if p.name == name or p.name.startswith(begin)]

    def torn(self) -> list[Place]:
        """See `Storage.torn`."""
        return [*self.place.glob(".*.tmp")]

    def odd_files(self, is_read: Callable[[str], bool]) -> dict[str, str]:
        """See `Storage.odd_files`."""
        return odd_names(look_through(self.place), is_read)

    def sizes(self) -> dict[str, int]:
        """See `Storage.sizes`."""
        names = look_through(self.place).files
        return {name: (self.place / name).stat().st_size for name in names}

    def digests(self, is_read: Callable[[str], bool]) -> dict[str, str]:
        """See `Storage.digests`."""
        tree = look_through(self.place)
        refuse_odd(self.place, tree, is_read)
        names = filter(is_read, tree.files)
        return {name: LocalStorage(self.place / name).digest() for name in names}

    def foreign_files(self, own: Collection[str]) -> Iterator[str]:
        """See `Storage.foreign_files`."""
        return foreign_files(self.place, own)

    def misplaced_links(self, own: Collection[str]) -> Iterator[str]:
        """See `Storage.misplaced_links`."""
        return misplaced_links(self.place, own)

    def link_target(self) -> str | None:
        """See `Storage.link_target`."""
        return str(self.place.readlink()) if self.place.is_symlink() else None

    def is_writable(self) -> bool:
        """By the rights of this user."""
        return os.access(self.place, os.W_OK | os.X_OK)

    def absolute(self, *, writes: bool) -> Path:
        """See `Storage.absolute`."""
        return path_to_write(self.place) if writes else path_to_read(self.place)

    def lies_in(self, folder: Place) -> bool:
        """Whatever links lead there."""
        return self.place.resolve().is_relative_to(Path(str(folder)).resolve())

    def discard(self) -> None:
        """See `Storage.discard`."""
        if self.place.is_symlink() or self.place.is_file():
            self.place.unlink(missing_ok=True)
        else:
            shutil.rmtree(self.place, ignore_errors=True)

    def remove(self) -> None:
        """See `Storage.remove`."""
        if self.place.is_dir() and not self.place.is_symlink():
            shutil.rmtree(self.place)
        else:
            self.place.unlink(missing_ok=True)

    def remove_each(self, note: Callable[[str, BaseException], None]) -> None:
        """See `Storage.remove_each`."""
        if self.place.is_dir() and not self.place.is_symlink():
            shutil.rmtree(self.place, onerror=lambda _, path, info: note(path, info[1]))
            return
        try:
            self.place.unlink(missing_ok=True)
        except OSError as error:
            note(str(self.place), error)

    def keeps_versions(self) -> bool | None:
        """Disks keep none."""
        return False
