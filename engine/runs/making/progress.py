"""Progress of a run: workers append events to progress.jsonl, the driver turns them into lines.

The file tells what happened when; it is never used to decide what exists (that is the ledger's).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from engine.log import get_logger
from engine.parallel.rows.pulse import step
from engine.storage.backends.find import storage_at
from engine.storage.disk_files import open_regular
from engine.storage.files import append
from engine.storage.places import Place

log = get_logger(__name__)

_POLL_S = 0.5
_SILENCE_S = 5.0
_dropped: set[Place] = set()  # files that could not be written


def write_event(path: Place, event: str, sample_id: str, done: int = 0, total: int = 0) -> None:
    """Add one event: "started", "window" (done of total), "committed" or "failed".

    An object store keeps no events: each would be an object, and the driver would have to list
    them all again and again (see `ProgressWatch.ended`). An event that cannot be written is
    dropped: what is only shown stops no work.
    """
    step()
    if not storage_at(path).can_append:
        return
    fields = {"time": round(time.time(), 3), "event": event, "sample_id": sample_id}
    if total:
        fields.update(done=done, total=total)
    try:
        append(path, json.dumps(fields))
    except OSError as error:
        level = logging.DEBUG if path in _dropped else logging.WARNING  # said once a process
        _dropped.add(path)
        log.log(level, "%s: cannot be written (%s); progress is not shown", path, error.strerror)


@dataclass
class Tally:
    """Where a job stands, from the events seen so far.

    Attributes:
        planned: volumes of the whole run.
        committed: volumes that exist.
        to_do: volumes that this job set out to make.
        fractions: of each volume being made, 0 to 1.
        over: volumes that ended, each counted once whoever tells it first.
    """

    planned: int
    committed: int
    to_do: int
    ended: int = 0
    failed: int = 0
    latest: str = ""
    first_s: float | None = None
    fractions: dict[str, float] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)

    def take(self, event: str, sample_id: str, time_s: float, done: int, total: int) -> None:
        """Let one event count."""
        if self.first_s is None:
            self.first_s = time_s
        if sample_id in self.over:
            return
        if event == "started":
            self.fractions[sample_id] = 0.0
        elif event == "window" and total:
            self.fractions[sample_id] = done / (total + 1)  # decoding and writing are to come
            self.latest = f"{sample_id} window {done}/{total}"
            if done == total:
                self.latest = f"{sample_id} decoding"
        elif event in ("committed", "failed"):
            self.fractions.pop(sample_id, None)
            self.over.add(sample_id)
            self.ended += 1
            self.committed += event == "committed"
            self.failed += event == "failed"
            self.latest = f"{sample_id} {event}"

    def line(self, now_s: float, started_s: float) -> str:
        """One line for a person, with the time left as soon as it can be told."""
        parts = [f"{self.committed}/{self.planned} volumes"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        parts.append(f"{now_s - started_s:.0f} s elapsed")
        left = self._left_s(now_s)
        if left is not None:
            parts.append(f"about {_duration(left)} left")
        return ", ".join(parts) + (f" ({self.latest})" if self.latest else "")

    def _left_s(self, now_s: float) -> float | None:
        done = self.ended + sum(self.fractions.values())
        if self.first_s is None or done <= 0.0:
            return None
        return (now_s - self.first_s) / done * max(0.0, self.to_do - done)


class ProgressWatch:
    """Follows progress.jsonl in a thread and logs a line at every volume and every few seconds."""

    def __init__(self, path: Place, tally: Tally) -> None:
        self._path = storage_at(path).local
        self._tally = tally
        self._offset = 0
        if self._path is not None:
            with suppress(OSError):
                self._offset = self._path.stat().st_size
        self._started_s = time.time()
        self._counting = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def ended(self, sample_id: str, status: str) -> None:
        """Be told of a volume that has ended, which also counts where no file tells."""
        event = "committed" if status == "committed" else "failed"
        with self._counting:
            self._tally.take(event, sample_id, self._started_s, 0, 0)

    def _follow(self) -> None:
        shown_s, shown, ended = time.time(), "", 0
        while True:
            stopping = self._stop.wait(_POLL_S)
            with suppress(OSError):  # what cannot be read is not shown, and stops no work
                self._read_new()
            now_s = time.time()
            with self._counting:
                line = self._tally.line(now_s, self._started_s)
            due = self._tally.ended > ended or now_s - shown_s >= _SILENCE_S
            if due and self._tally.latest and line != shown:
                log.info(line)
                shown_s, shown, ended = now_s, line, self._tally.ended
            if stopping:
                return

    def _read_new(self) -> None:
        """Read whole new lines; a torn line (two writers on a network disk) is skipped."""
        if self._path is None or not self._path.is_file():
            return
        try:
            with open_regular(self._path) as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return  # display never stops work
        end = text.rfind(b"\n") + 1
        self._offset += end
        for raw in text[:end].splitlines():
            with suppress(ValueError, KeyError, TypeError, RecursionError), self._counting:
                e = json.loads(raw)
                done, total = int(e.get("done", 0)), int(e.get("total", 0))
                self._tally.take(
                    str(e["event"]), str(e["sample_id"]), float(e["time"]), done, total
                )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
