"""Workers that are stopped and not dead: named by host and process, and ended where that is asked.

A worker that is stopped (SIGSTOP, a blocked disk) holds its rows for ever, and Ray does not see it.
The driver reads the workers' signs (`pulse.py`). It counts its own looks and not hours, so that a
computer that slept finds nobody stalled when it wakes.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.log import get_logger
from engine.parallel.rows.nodes import NAMESPACE, stopped_key
from engine.parallel.rows.pulse import BEAT_S, born, is_stopped

log = get_logger(__name__)

NAMED_AFTER_S = 60.0
_LOOK_S = 2 * BEAT_S


@dataclass
class _Seen:
    """What is known of one worker: its last sign, and how long it has not changed."""

    sign: dict[str, Any]
    silent_s: float = 0.0
    idle_s: float = 0.0
    is_named: bool = False


class Stalls:
    """Judges signs; knows no Ray.

    Args:
        timeout_s: a worker with rows that made no step for so long is to be ended; None never.
        end: ends a worker, given its last sign, and whether it gives none any more.
    """

    def __init__(self, timeout_s: float | None, end: Callable[[dict[str, Any]], None]) -> None:
        self._timeout_s, self._end = timeout_s, end
        self._seen: dict[str, _Seen] = {}

    def look(self, signs: dict[str, dict[str, Any]], passed_s: float) -> None:
        """Take the workers' latest signs.

        Args:
            signs: by worker.
            passed_s: since the last look.
        """
        self._seen = {name: seen for name, seen in self._seen.items() if name in signs}
        for name, sign in signs.items():
            seen = self._seen.get(name)
            if seen is None:
                self._seen[name] = _Seen(sign)
                continue
            silent = sign["beats"] == seen.sign["beats"]
            idle = sign["steps"] == seen.sign["steps"] and sign["rows"] > 0
            seen.silent_s = seen.silent_s + passed_s if silent and sign["rows"] else 0.0
            seen.idle_s = seen.idle_s + passed_s if idle else 0.0
            seen.sign = sign
            self._judge(seen)

    def _judge(self, seen: _Seen) -> None:
        sign = seen.sign
        who = f"the worker {sign['host']}:{sign['pid']}"
        limit_s = self._timeout_s
        if limit_s is not None and max(seen.silent_s, seen.idle_s) >= limit_s:
            log.warning(
                "%s made no step for %.0f s (--stall-timeout) and is ended; its %d row(s) move to "
                "another", who, max(seen.silent_s, seen.idle_s), sign["rows"],
            )  # fmt: skip
            is_silent = seen.silent_s >= limit_s
            seen.silent_s = seen.idle_s = 0.0
            self._end({**sign, "silent": is_silent})
        elif seen.silent_s < NAMED_AFTER_S:
            seen.is_named = False
        elif not seen.is_named:
            seen.is_named = True
            log.warning(
                "%s gives no sign of life for %.0f s and holds %d row(s): it is stopped, or its "
                "disk is blocked; let it go on (kill -CONT %d), end it (kill -KILL %d), or give "
                "--stall-timeout SECONDS to have such rows moved",
                who, seen.silent_s, sign["rows"], sign["pid"], sign["pid"],
            )  # fmt: skip


class StallWatch:
    """Looks at the workers of one job in a thread of the driver."""

    def __init__(self, job: str, timeout_s: float | None) -> None:
        self._prefix = f"{job}/".encode()
        self._stalls = Stalls(timeout_s, _end)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self._stalls.look(self._read(), _LOOK_S)
            except Exception as error:  # the cluster may be ending; others say so
                log.debug("no signs: %s", error)

    def _read(self) -> dict[str, dict[str, Any]]:
        signs = {}
        for key in internal_kv._internal_kv_list(self._prefix, namespace=NAMESPACE):
            raw = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
            if raw is not None:
                signs[key.decode()] = json.loads(raw)
        return signs


def _end(sign: dict[str, Any]) -> None:
    """End a worker, by a task on its own computer; a stopped process does not hear Ray."""
    where = NodeAffinitySchedulingStrategy(sign["node"], soft=False)
    task = ray.remote(_kill).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
    task.remote(sign["pid"], sign["born"], sign["node"] if sign["silent"] else "")


def _tell_stopped(process: str) -> None:
    internal_kv._internal_kv_put(stopped_key(process), b"1", namespace=NAMESPACE)


def _kill(pid: int, birth: str, node: str, tell: Callable[[str], None] = _tell_stopped) -> None:
    """End a process of this computer, and tell when it was kept from working, by no row's fault.

    Args:
        pid: of the process.
        birth: when it began (see `born`).
        node: Ray's id of this computer; empty for a process that gives signs: its row may be what
            it cannot get through.
        tell: lets the cluster know of a process (see `nodes.py`).
    """
    if born(pid) != birth:
        return
    if node and is_stopped(pid):
        tell(f"{node}:{pid}")
    os.kill(pid, signal.SIGKILL)
