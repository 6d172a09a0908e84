"""Ray's own processes die in mid-run; the job must end soon, with the code that says so.

The driver strikes its own raylet or control store (GCS), with one row in a worker and with several.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray

from engine.command import LOST
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from faults.bench import DEADLINE_S, Bench, Fault
from faults.sampler import VICTIM, FakeSampler


def lost_cluster(bench: Bench, out: Path, fault: str) -> str:
    """The code and the words that say so; the same command then does the rest."""
    process = bench.child(out, fault, ray=True)
    try:
        code = process.wait(DEADLINE_S)
    finally:
        process.kill()
    if code != LOST:
        return f"the job ended with code {code}"
    trouble = bench.again(out)
    held = ledger.num_failures(RunFolder(out), VICTIM)
    return trouble or (f"it was held against {VICTIM}" if held else "")


def _orphaned(marks: Path, victim: str) -> FakeSampler:
    """A sampler that waits at one volume, until a thread of the driver has struck."""

    def strike() -> None:
        while not (marks / f"{VICTIM}.struck").exists():
            time.sleep(0.1)
        node: Any = ray._private.worker._global_node
        os.kill(node.all_processes[victim][0].process.pid, signal.SIGKILL)

    threading.Thread(target=strike, name="strike", daemon=True).start()
    return FakeSampler(marks, orphan=(VICTIM,))


FAULTS = tuple(
    Fault(
        name,
        partial(lost_cluster, fault=name),
        partial(_orphaned, victim=victim),
        needs_ray=True,
        rows_at_once=rows,
    )
    for name, victim, rows in (
        ("raylet", "raylet", 1),
        ("raylet, two rows", "raylet", 2),
        ("gcs", "gcs_server", 1),
        ("gcs, two rows", "gcs_server", 2),
    )
)
