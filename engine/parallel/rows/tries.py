"""Rows that kill their worker: each try is a file while it lasts, and three are enough.

A worker begins a try before it touches a row and ends it afterwards, whatever came of it. A try
that was begun and never ended belongs to a worker that was killed. Used where rows have no ledger
of their own (prepared cases, caches; a run's samples have `engine.runs.record.ledger`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import MalformedFileError, RunError
from engine.parallel.rows.nodes import is_blameless, this_process
from engine.storage.checked_files import read_json
from engine.storage.files import put

MAX_TRIES = 3
"""A row that killed its worker this often is not tried again."""
_OPEN, _KILLED, _MADE_OF = ".open", ".killed", "made_of"


@dataclass(frozen=True)
class TryBook:
    """The tries of one job's rows.

    Attributes:
        folder: where they are kept, a folder a row.
        key: of the row's name, which must be fit for a folder.
        made_of: key of what tells that the row is another one than it was; empty is none.
    """

    folder: Path
    key: str
    made_of: str = ""

    def begin(
        self, row: dict[str, object], blameless: Callable[[str], bool] = is_blameless
    ) -> Path:
        """Record that a worker now takes a row.

        A try whose computer left the cluster, or whose worker was stopped, is not held against the
        row.

        Args:
            row: with its name.
            blameless: whether a process ended by no fault of its rows.

        Returns:
            The place to give to `end`.

        Raises:
            RunError: the row killed its workers `MAX_TRIES` times.
        """
        place = self.folder / str(row[self.key])
        self._forget_other(place, str(row.get(self.made_of, "")))
        for earlier in place.glob(f"*{_OPEN}"):
            earlier.replace(earlier.with_suffix(_KILLED))
        killed = []
        for earlier in sorted(place.glob(f"*{_KILLED}")):
            if blameless(_process_of(earlier)):
                earlier.unlink(missing_ok=True)
            else:
                killed.append(earlier)
        if len(killed) >= MAX_TRIES:
            raise RunError(
                f"{row[self.key]}: killed its worker {len(killed)} times, or ran out of memory "
                f"there; give workers more memory, leave it out, or remove {place} to have it "
                "tried again"
            )
        who = {"node": this_process()}
        put(place / f"{time.time_ns():020d}{_OPEN}", json.dumps(who))
        return place

    def end(self, place: Path) -> None:
        """Record that a worker is done with a row: well or not, it lives."""
        shutil.rmtree(place, ignore_errors=True)

    def forgive(self) -> None:
        """At a job's start: what was open ended together with the last job, by no row's fault.

        The caller holds the folder's lock.
        """
        for left in self.folder.glob(f"*/*{_OPEN}"):
            left.unlink(missing_ok=True)

    def close(self) -> None:
        """At a job's end: remove the folder when nothing is held against any row."""
        for place in self.folder.glob("*"):
            if place.is_dir() and not any(place.glob(f"*{_KILLED}")):
                shutil.rmtree(place, ignore_errors=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _forget_other(self, place: Path, made_of: str) -> None:
        """Tries at a row that was made of something else tell nothing of this one."""
        digest = hashlib.sha256(made_of.encode()).hexdigest()
        mark = place / _MADE_OF
        try:
            same = mark.read_text(encoding="utf-8") == digest
        except FileNotFoundError:
            same = False
        if not same:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            put(mark, digest)


def _process_of(record: Path) -> str:
    try:
        return str(read_json(record)["node"])
    except (FileNotFoundError, MalformedFileError, KeyError, TypeError):
        return ""
