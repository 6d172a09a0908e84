"""A lock of numbered objects, of which the highest is in force: in an object store, or on a disk.

To take the lock is to create the next number, which succeeds for one of several jobs. The holder
renews its object; when it was silent for too long, or died on this very machine, another job may
create the next number. So a holder that wakes up again finds a higher number and stops, and what
its workers commit carries a number that is known to be old. How long a holder was silent is told
by the clock of the store, and not by those of the machines, which may be wrong by days.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from engine.errors import EngineError, RunError, StoreError
from engine.log import get_logger
from engine.storage.backends.find import storage_at
from engine.storage.conditional import probe
from engine.storage.locks.holder import Machine, is_alive, own_start, this_machine
from engine.storage.locks.lock import Lock
from engine.storage.places import Place

log = get_logger(__name__)

EXPIRES_S = 60.0
"""A holder that was silent for so long has lost its lock."""
RENEWED_EVERY_S = 10.0
_SKEW_S = 5.0  # clocks that differ by less are taken as equal: a store tells whole seconds
_NAMED_SKEW_S = 60.0

_held_here: set[str] = (
    set()
)  # tokens; a lock of this process that is not here could not be released


@dataclass(frozen=True)
class _Holder:
    """Content of a lock object.

    Attributes:
        token: of this holding, unlike any other.
        host: with `boot_id` and `pid_namespace`, the machine (see `holder.py`).
        process: its number there.
        process_started_at: tells it from a later process of that number.
        renewed_at: by the holder's clock, seconds since 1970.
        released: the holder has ended.
    """

    token: str
    host: str
    process: int
    process_started_at: float
    renewed_at: float
    released: bool = False
    boot_id: str = ""
    pid_namespace: str = ""

    def is_dead(self) -> bool:
        """Whether it has ended, as far as this machine can tell at once."""
        if self.released:
            return True
        if Machine(self.host, self.boot_id, self.pid_namespace) != this_machine():
            return False
        if self.process == os.getpid():
            return self.token not in _held_here
        return not is_alive(self.process, self.process_started_at)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class _Silence:
    """How long a holder was not heard of.

    Attributes:
        seconds: by the store's clock where it tells one.
        clocks: what is wrong with whose clock, for messages.
    """

    seconds: float
    clocks: str = ""


class ObjectLock(Lock):
    """Holds a place for this process.

    Args:
        place: for the numbered objects.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._own: _Holder | None = None
        self._lost = False
        self._renewed_s = 0.0
        self._trouble = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunError: another job holds it.
            StoreError: the store cannot be used, or the lock cannot be understood.
        """
        store_now = probe(self._place)
        numbers = self._numbers()
        before = numbers[-1] if numbers else 0
        holder = self._read(before) if before else None
        if holder is not None and not holder.is_dead():
            silence = self._silence(before, holder, store_now)
            if silence.seconds <= EXPIRES_S:
                raise self._refusal(holder, silence)
        machine = this_machine()
        own = _Holder(
            token=uuid.uuid4().hex,
            host=machine.host,
            process=os.getpid(),
            process_started_at=own_start(),
            renewed_at=time.time(),
            boot_id=machine.boot_id,
            pid_namespace=machine.pid_namespace,
        )
        self._number = before + 1
        if not storage_at(self._object(self._number)).write_new(own.to_bytes()):
            raise self._refusal(self._read(self._number), _Silence(0.0))
        for number in numbers:
            self._object(number).unlink(missing_ok=True)
        self._own, self._lost, self._trouble = own, False, ""
        _held_here.add(own.token)
        self._stop.clear()
        self._renewed_s = time.monotonic()
        self._thread = threading.Thread(target=self._renew_often, name="run lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that the lock is still ours, and that the store knows it.

        Raises:
            RunError: somebody took it over, or it is not renewed any more.
        """
        silent_s = time.monotonic() - self._renewed_s
        dead = self._thread is not None and not self._thread.is_alive() and not self._lost
        if not self._lost and (dead or silent_s > EXPIRES_S):
            self._try_to_renew()
            silent_s = time.monotonic() - self._renewed_s
        elif not self._lost:
            with suppress(EngineError, OSError, RuntimeError):  # one look that fails says nothing
                self._lost = max(self._numbers(), default=0) > self._number
        if self._lost:
            raise RunError(
                f"{self._place.parent}: another job took this run over, because the store did not "
                "hear from us for too long; what is committed stays, and that job makes the rest"
            )
        if dead or silent_s > EXPIRES_S:
            reason = self._trouble or "the thread that renews it has died"
            raise RunError(
                f"{self._place}: the run's lock is not renewed any more ({reason}), so that "
                "another job may take the run over; what is committed stays, start the job again "
                "for the rest"
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
        except (EngineError, OSError) as error:
            log.warning("%s (the lock ends by itself in %.0f s)", error, EXPIRES_S)
        finally:
            _held_here.discard(self._own.token)
            self._own = None

    def _renew_often(self) -> None:
        while not self._stop.wait(RENEWED_EVERY_S) and not self._lost:
            self._try_to_renew()

    def _try_to_renew(self) -> None:
        """Renew; whatever goes wrong is kept for `check`, and tried again."""
        try:
            self._renew()
        except Exception as error:  # the thread must outlive what nobody has foreseen
            self._trouble = f"{type(error).__name__}: {error}"
            log.warning("cannot renew the run's lock: %s", self._trouble)

    def _renew(self, *, released: bool = False) -> None:
        assert self._own is not None
        if max(self._numbers(), default=0) > self._number:
            self._lost = True
            return
        storage = storage_at(self._object(self._number))
        now = replace(self._own, renewed_at=time.time(), released=released)
        if released:
            storage.put(now.to_bytes())
        else:
            storage.renew(now.to_bytes())
        self._renewed_s, self._trouble = time.monotonic(), ""

    def _numbers(self) -> list[int]:
        return numbers_at(self._place)

    def _object(self, number: int) -> Place:
        return self._place / f"{number:08d}.json"

    def _read(self, number: int) -> _Holder:
        place = self._object(number)
        try:
            return _Holder(**json.loads(place.read_bytes()))
        except (ValueError, TypeError, RecursionError, FileNotFoundError):
            raise StoreError(
                f"{place}: cannot read who holds this run; when no job is at work, delete what is "
                f"in {self._place}"
            ) from None

    def _silence(self, number: int, holder: _Holder, store_now: float | None) -> _Silence:
        """How long a holder was silent; clocks of machines count only where they agree."""
        by_clocks = time.time() - holder.renewed_at
        store_then = storage_at(self._object(number)).modified_at()
        if store_now is None or store_then is None:
            return _Silence(by_clocks)
        if storage_at(self._place).local:  # its time is renewed, and not its content
            return _Silence(store_now - store_then)
        ours, theirs = time.time() - store_now, holder.renewed_at - store_then
        clocks = _describe_skew("its", theirs) + _describe_skew("this machine's", ours)
        agree = abs(ours - theirs) <= _SKEW_S
        return _Silence(by_clocks if agree else store_now - store_then, clocks)

    def _refusal(self, holder: _Holder, silence: _Silence) -> RunError:
        silent_s = max(0.0, silence.seconds)
        return RunError(
            f"{self._place.parent}: another job is at work here (process {holder.process} on "
            f"{holder.host}, last heard of {silent_s:.0f} s ago{silence.clocks}); wait for it, end "
            f"it, or choose another place with --out (when it is dead, start again in "
            f"{max(0.0, EXPIRES_S - silent_s):.0f} s)"
        )


def numbers_at(place: Place) -> list[int]:
    """Numbers of a lock's objects, ascending."""
    return sorted(int(p.stem) for p in place.glob("*.json") if p.stem.isdecimal())


def _describe_skew(whose: str, skew_s: float) -> str:
    """What a message says of a clock that is wrong."""
    if abs(skew_s) <= _NAMED_SKEW_S:
        return ""
    how = "ahead of" if skew_s > 0 else "behind"
    return f"; {whose} clock is {abs(skew_s) / 3600:.1f} h {how} the store's"
