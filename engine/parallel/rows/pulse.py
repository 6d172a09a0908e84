"""A worker's pulse: every few seconds it tells that it lives, and how many steps it has made.

The signs go into the cluster's own key-value store, so that they need no process, no port and no
disk. A process that is stopped gives none; nor does one whose disk is blocked, because a byte is
written to the disk before each. Who reads them is `stalls.py`. Outside Ray there is no pulse.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray.experimental import internal_kv

from engine.parallel.rows.nodes import NAMESPACE, this_node

BEAT_S = 2.0
_KEPT = ("T", "t", "D")  # stopped, traced, in an uninterruptible wait


class Pulse:
    """Beats in a thread for as long as the process lives.

    Args:
        job: names the job whose driver listens.
        disk: folder that the worker writes to, or None.
    """

    def __init__(self, job: str, disk: Path | None) -> None:
        self._key = f"{job}/{socket.gethostname()}:{os.getpid()}".encode()
        self._disk = disk
        self._who = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "node": this_node(),
            "born": born(os.getpid()),
        }
        self._beats = self._rows = 0
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    @contextmanager
    def row(self) -> Iterator[None]:
        """A row is in this worker's hands."""
        self._rows += 1
        step()
        try:
            yield
        finally:
            self._rows -= 1
            step()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with suppress(OSError):  # a full disk is no blocked one
                self._touch_disk()
            self._beats += 1
            sign = {**self._who, "beats": self._beats, "steps": _steps, "rows": self._rows}
            with suppress(Exception):  # the cluster may be ending
                internal_kv._internal_kv_put(
                    self._key, json.dumps(sign).encode(), True, namespace=NAMESPACE
                )
            pause.wait(BEAT_S)

    def _touch_disk(self) -> None:
        if self._disk is None:
            return
        path = self._disk / f".pulse-{self._who['host']}-{self._who['pid']}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b".")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_steps = 0


def step() -> None:
    """This process got on with its work: a window, a stage of a volume, a row."""
    global _steps
    _steps += 1


def is_stopped(pid: int) -> bool:
    """Whether a process of this computer is kept from working: stopped, or waiting for a disk."""
    states = []
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError, IndexError):  # a thread that ended
            states.append(task.read_text().rpartition(")")[2].split()[0])
    return any(state in _KEPT for state in states)


def born(pid: int) -> str:
    """When a process began, as its system counts; its id can be another process's later."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
