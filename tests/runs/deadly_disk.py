"""A disk that kills whoever works on it, at a step of its choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from engine.runs.record.ledger import attempts, renamed
from engine.storage.disk_files import sync_folder
from engine.storage.files import append, put


class KilledError(BaseException):
    """The process is gone: nothing after this line runs, no `except Exception` sees it."""


class Disk:
    """Counts the steps that touch the disk, and kills before the one that is due."""

    def __init__(self) -> None:
        self.due: int | None = None

    def step(self) -> None:
        if self.due is None:
            return
        self.due -= 1
        if self.due < 0:
            self.due = None
            raise KilledError

    @contextmanager
    def dies_at(self, due: int | None) -> Iterator[None]:
        rename = Path.rename

        def stepped_put(path: Path, text: str) -> None:
            self.step()
            put(path, text)

        def stepped_append(path: Path, line: str) -> None:
            self.step()
            append(path, line)

        def stepped_rename(path: Path, target: Path) -> Path:
            self.step()
            return rename(path, target)

        def stepped_sync(path: Path) -> None:
            self.step()
            sync_folder(path)

        self.due = due
        with (
            mock.patch.object(attempts, "put", stepped_put),
            mock.patch.object(renamed, "put", stepped_put),
            mock.patch.object(attempts, "append", stepped_append),
            mock.patch.object(renamed, "sync_folder", stepped_sync),
            mock.patch.object(Path, "rename", stepped_rename),
        ):
            yield
        self.due = None
