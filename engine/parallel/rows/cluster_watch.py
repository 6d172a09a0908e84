"""Ray's own processes, watched: a job whose cluster dies says so and ends with a code of its own.

When its raylet or the cluster's control store (GCS) dies, Ray's core ends the driver after a while,
from C++ and without a word, with exit code 1, which means something else here. So a thread connects
to both every second or two. When one refuses for long enough, the main thread gets a
`ClusterLostError`, which unwinds it like any other; should it not get that far, the thread itself
ends the process with the same words and code.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from engine.command import LOST
from engine.errors import ClusterLostError

_LOOK_S = 0.5
_UNWIND_S = 20.0
_SIGNAL = signal.SIGRTMIN + 5  # nobody else's
WORDS = (
    "the Ray cluster is gone ({what} does not answer any more); what is done stays: start the same "
    "command again to go on"
)


class ClusterWatch:
    """Watches the cluster that this process is a driver of.

    Args:
        doors: what must answer: its name -> a function that connects to it, or raises OSError.
        patience_s: how long it may refuse; a cluster can have a store that starts again.
    """

    def __init__(self, doors: dict[str, Callable[[], None]], patience_s: float) -> None:
        self._doors, self._patience_s = doors, patience_s
        self._stop = threading.Event()
        self._lost = ""
        self._before: Any = None

    @property
    def is_lost(self) -> bool:
        """Whether the cluster is gone: whoever talks to it then waits for long."""
        return bool(self._lost)

    def start(self) -> None:
        """Begin to watch, from the main thread; elsewhere nobody could be told."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._before = signal.signal(_SIGNAL, self._raise)
        threading.Thread(target=self._run, name="cluster watch", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()
        if self._before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(_SIGNAL, self._before)
            self._before = None

    def refuses(self) -> bool:
        """Whether a door refuses right now, for however short a time."""
        for knock in self._doors.values():
            try:
                knock()
            except OSError:
                return True
        return False

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        raise ClusterLostError(WORDS.format(what=self._lost))

    def _run(self) -> None:
        refused_s = dict.fromkeys(self._doors, 0.0)
        while not self._stop.wait(_LOOK_S):
            for name, knock in self._doors.items():
                started = time.monotonic()
                try:
                    knock()
                    refused_s[name] = 0.0
                except OSError:
                    refused_s[name] += _LOOK_S + time.monotonic() - started
                if refused_s[name] > self._patience_s:
                    self._end(name)
                    return

    def _end(self, name: str) -> None:
        self._lost = name
        signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
        if self._stop.wait(_UNWIND_S):
            return
        print(f"error: {WORDS.format(what=name)}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(LOST)


def knock_at_port(host: str, port: int) -> Callable[[], None]:
    """Connects to a TCP port and leaves."""
    return lambda: socket.create_connection((host, port), timeout=5.0).close()


def knock_at_socket(path: str) -> Callable[[], None]:
    """Connects to a Unix socket and leaves."""

    def knock() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5.0)
            client.connect(path)

    return knock
