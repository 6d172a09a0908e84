"""A run folder: where its files lie, and the three safe ways to write one.

`put` replaces a file as a whole, `append` adds a line, `RunLock` keeps a second job out; each on
disk and in an object store. What the files mean is the business of `ledger.py`, `plan.py`,
`identity.py` and `progress.py`.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from engine.errors import RunError
from engine.runs.object_lock import ObjectLock
from engine.volumes.object_path import ObjectPath
from engine.volumes.places import Place


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run folder (see `docs`, "A run on disk"). Creates nothing by itself."""

    root: Place

    @property
    def identity(self) -> Place:
        """Resolved configuration, versions, sha256 of weights and data."""
        return self.root / "run.yaml"

    @property
    def plan(self) -> Place:
        """One JSON row a volume, written before any work."""
        return self.root / "plan.jsonl"

    @property
    def plan_digest(self) -> Place:
        """sha256 of the plan as it was written; `sha256sum --check` reads it."""
        return self.root / "plan.sha256"

    @property
    def progress(self) -> Place:
        """Events of all workers and all starts, in the order they were written."""
        return self.root / "progress.jsonl"

    @property
    def failures(self) -> Place:
        """One JSON line a failed attempt."""
        return self.root / "failures.jsonl"

    @property
    def summary(self) -> Place:
        """Counts, measures and timings of the whole run."""
        return self.root / "summary.json"

    @property
    def table(self) -> Place:
        """One JSON line a committed volume: what the summary averages."""
        return self.root / "volumes.jsonl"

    @property
    def report(self) -> Place:
        """The page a person looks at."""
        return self.root / "report.html"

    @property
    def commits(self) -> Place:
        """Commit records; a volume without one does not exist."""
        return self.root / "commits"

    @property
    def withdrawn(self) -> Place:
        """Cases that were withdrawn: nothing is made of them any more."""
        return self.root / "withdrawn.json"

    @property
    def cohort(self) -> Place:
        """What the cohort's real volumes are like, for the gates."""
        return self.root / "cohort.json"

    @property
    def attempts(self) -> Place:
        """Attempt records, counted over restarts."""
        return self.root / "attempts"

    @property
    def staging(self) -> Place:
        """Volumes being written; nothing in here counts."""
        return self.root / "staging"

    @property
    def volumes(self) -> Place:
        """All volumes."""
        return self.root / "volumes"

    def volume(self, sample_id: str) -> Place:
        """Final place of a sample's volume; in an object store that of all attempts at it.

        Which attempt's volume is the sample's says its commit record (see `ledger.volume_of`).
        """
        is_object = isinstance(self.root, ObjectPath)
        return self.volumes / (sample_id if is_object else f"{sample_id}.ome.zarr")

    def commit(self, sample_id: str) -> Place:
        """Place of a sample's commit record."""
        return self.commits / f"{sample_id}.json"

    def create(self) -> None:
        """Make the folders of a run.

        Raises:
            RunError: the place cannot be written to, or a folder of the run is a link.
            StoreError: the object store cannot be used.
        """
        if isinstance(self.root, ObjectPath):
            next(self.root.iterdir(), None)  # is there a bucket?
            return
        self.refuse_links()
        try:
            for path in self._parts():
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.root}: cannot make a run folder here ({error.strerror}); "
                "choose another place with --out"
            ) from None

    def refuse_links(self) -> None:
        """Refuse a run whose folders lie elsewhere: jobs delete in them.

        Raises:
            RunError: names the link.
        """
        for path in self._parts():
            if isinstance(path, Path) and path.is_symlink():
                raise RunError(
                    f"{path}: a link, and jobs delete what lies there; put a real folder in its "
                    "place (the run folder itself may be a link)"
                )

    def _parts(self) -> tuple[Place, ...]:
        return (self.volumes, self.commits, self.attempts, self.staging)


class RunLock:
    """Holds a run folder for one driver process.

    Raises (on entering):
        RunError: another job works on this folder, or it cannot be written to.
    """

    def __init__(self, folder: RunFolder) -> None:
        place = folder.root / "lock"
        self._held = ObjectLock(place) if isinstance(place, ObjectPath) else _FileLock(place)

    def check(self) -> None:
        """Make sure that the folder is still ours.

        Raises:
            RunError: another job took it over, because we had been silent too long.
        """
        self._held.check()

    def __enter__(self) -> Self:
        self._held.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.release()


class _FileLock:
    """A lock of the operating system, which lets go when the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def check(self) -> None:
        """It cannot be lost."""

    def acquire(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self._path, flags, 0o644)
        except OSError as error:
            raise RunError(
                f"{self._path}: cannot be locked ({error.strerror}); make the folder writable and "
                "this file no link, or choose another place with --out"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunError(
                f"{self._path.parent}: another job is at work here ({holder or 'unknown'}); "
                "wait for it, end it, or choose another place with --out"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def put(path: Place, text: str) -> None:
    """Write a whole file; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text)


@contextmanager
def whole_file(path: Place) -> Iterator[TextIO]:
    """A file to write, so that readers see the old one or the new one, also after a power cut."""
    if isinstance(path, ObjectPath):
        text = io.StringIO()
        yield text
        path.write_text(text.getvalue())
        return
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with staged.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(path.parent)


def append(path: Place, line: str) -> None:
    """Add one line in a single write, so that lines of several processes do not mix.

    In an object store, where nothing can be added to, each line is an object of its own until
    `gather` puts them together.
    """
    if isinstance(path, ObjectPath):
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
        (path.with_name(path.stem) / name).write_text(line + "\n")
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o644)
    try:
        os.write(descriptor, (line + "\n").encode())
    finally:
        os.close(descriptor)


def discard(path: Place) -> None:
    """Remove a folder, or a link without what it points to; what cannot be removed stays."""
    if isinstance(path, ObjectPath):
        path.remove_tree()
    elif path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def gather(path: Place) -> None:
    """Make one file of the lines that were appended; on disk it is one already."""
    if isinstance(path, ObjectPath):
        lines = [part.read_text() for part in path.with_name(path.stem).iterdir()]
        if lines:
            path.write_text("".join(lines))


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
