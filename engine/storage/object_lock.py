"""The lock of a run in an object store: numbered objects, of which the highest is in force.

To take the lock is to create the next number, which succeeds for one of several jobs. The holder
renews its object; when it was silent for too long, or died on this very machine, another job may
create the next number. So a holder that wakes up again finds a higher number and stops.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace

import psutil

from engine.errors import RunError, StoreError
from engine.log import get_logger
from engine.storage.object_path import ObjectPath

log = get_logger(__name__)

EXPIRES_S = 60.0
"""A holder that was silent for so long has lost its lock."""
RENEWED_EVERY_S = 10.0

_held_here: set[str] = (
    set()
)  # tokens; a lock of this process that is not here could not be released


@dataclass(frozen=True)
class _Holder:
    """Content of a lock object.

    Attributes:
        token: of this holding, unlike any other.
        process: its number on `host`.
        process_started_at: tells it from a later process of that number.
        renewed_at: seconds since 1970.
        released: the holder has ended.
    """

    token: str
    host: str
    process: int
    process_started_at: float
    renewed_at: float
    released: bool = False

    @property
    def silent_s(self) -> float:
        return time.time() - self.renewed_at

    def is_gone(self) -> bool:
        """Whether another job may take its place."""
        if self.released or self.silent_s > EXPIRES_S:
            return True
        if self.host != socket.gethostname():
            return False
        if self.process == os.getpid():
            return self.token not in _held_here
        try:
            started_at = psutil.Process(self.process).create_time()
        except psutil.NoSuchProcess:
            return True
        return abs(started_at - self.process_started_at) > 1.0

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class ObjectLock:
    """Holds a run in an object store for this process."""

    def __init__(self, place: ObjectPath) -> None:
        self._place = place
        self._number = 0
        self._own: _Holder | None = None
        self._lost = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunError: another job holds it.
            StoreError: the store cannot be used, or the lock cannot be understood.
        """
        numbers = self._numbers()
        before = numbers[-1] if numbers else 0
        holder = self._read(before) if before else None
        if holder is not None and not holder.is_gone():
            raise self._refusal(holder)
        process = psutil.Process()
        own = _Holder(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            process=os.getpid(),
            process_started_at=process.create_time(),
            renewed_at=time.time(),
        )
        self._number = before + 1
        if not self._object(self._number).write_new(own.to_bytes()):
            raise self._refusal(self._read(self._number))
        for number in numbers:
            self._object(number).unlink(missing_ok=True)
        self._own, self._lost = own, False
        _held_here.add(own.token)
        self._stop.clear()
        self._thread = threading.Thread(target=self._renew_often, name="run lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that nobody took the lock over.

        Raises:
            RunError: somebody did.
        """
        if self._lost:
            raise RunError(
                f"{self._place.parent}: another job took this run over, because the store did not "
                "hear from us for too long; what is committed stays, and that job makes the rest"
            )

    def release(self) -> None:
        """Let go, unless somebody took it over; a store that is gone lets go by itself."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._own is None:
            return
        try:
            if not self._lost:
                self._renew(released=True)
        except StoreError as error:
            log.warning("%s (the lock ends by itself in %.0f s)", error, EXPIRES_S)
        finally:
            _held_here.discard(self._own.token)
            self._own = None

    def _renew_often(self) -> None:
        while not self._stop.wait(RENEWED_EVERY_S) and not self._lost:
            try:
                self._renew()
            except StoreError as error:
                log.warning("cannot renew the run's lock: %s", error)

    def _renew(self, *, released: bool = False) -> None:
        assert self._own is not None
        if max(self._numbers(), default=0) > self._number:
            self._lost = True
            return
        now = replace(self._own, renewed_at=time.time(), released=released)
        self._object(self._number).write_bytes(now.to_bytes())

    def _numbers(self) -> list[int]:
        return [int(p.stem) for p in self._place.glob("*.json") if p.stem.isdecimal()]

    def _object(self, number: int) -> ObjectPath:
        return self._place / f"{number:08d}.json"

    def _read(self, number: int) -> _Holder:
        place = self._object(number)
        try:
            return _Holder(**json.loads(place.read_bytes()))
        except (ValueError, TypeError, FileNotFoundError):
            raise StoreError(
                f"{place}: cannot read who holds this run; when no job is at work, delete the "
                "objects in lock/"
            ) from None

    def _refusal(self, holder: _Holder) -> RunError:
        silent_s = max(0.0, holder.silent_s)
        return RunError(
            f"{self._place.parent}: another job is at work here (process {holder.process} on "
            f"{holder.host}, last heard of {silent_s:.0f} s ago); wait for it, end it, or choose "
            f"another place with --out (when it is dead, start again in {EXPIRES_S - silent_s:.0f} "
            "s)"
        )
