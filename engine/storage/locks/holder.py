"""Who holds a lock: a process, told apart from every other one on any machine.

A host's name and a process's number are not enough: containers share names, and count their
processes from one.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

_STARTS_DIFFER_S = 1.0


@dataclass(frozen=True)
class Machine:
    """Where process numbers have one meaning: equal where one can be looked up.

    Attributes:
        host: its name, for messages.
        boot_id: of the kernel since it started; "" where the system tells none.
        pid_namespace: of the process; "" where the system tells none.
    """

    host: str
    boot_id: str
    pid_namespace: str


@cache
def this_machine() -> Machine:
    """Where this process runs."""
    return Machine(socket.gethostname(), _boot_id(), _pid_namespace())


def is_alive(process: int, started_at: float) -> bool:
    """Whether a process of this machine still runs.

    Args:
        process: its number.
        started_at: seconds since 1970; tells it from a later process of that number.
    """
    try:
        found = psutil.Process(process).create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    return abs(found - started_at) <= _STARTS_DIFFER_S


def own_start() -> float:
    """When this process started, seconds since 1970."""
    try:
        return float(psutil.Process(os.getpid()).create_time())
    except psutil.Error:
        return time.time()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
