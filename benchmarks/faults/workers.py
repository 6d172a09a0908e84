"""A worker is killed in mid-volume, once or each time its case comes, or stopped; on local Ray."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from faults.bench import DEADLINE_S, Bench, Fault
from faults.sampler import VICTIM, FakeSampler


def killed_worker(bench: Bench, out: Path, fault: str) -> str:
    """The job must go on; a case that always kills its worker must be quarantined."""
    process = bench.child(out, fault, ray=True)
    try:
        process.wait(DEADLINE_S)
    finally:
        process.kill()
    failures = ledger.num_failures(RunFolder(out), VICTIM)
    if fault == "killer":
        return "" if failures == ledger.MAX_FAILURES else f"{failures} failures, not quarantined"
    if fault == "stopped" and failures:
        return f"{failures} failures of a sample whose worker was stopped"
    return "" if process.returncode == 0 else "the job failed"


def _stopped(marks: Path) -> FakeSampler:
    return FakeSampler(marks, stop=(VICTIM,))


def _once(marks: Path) -> FakeSampler:
    return FakeSampler(marks, once=(VICTIM,))


def _always(marks: Path) -> FakeSampler:
    return FakeSampler(marks, kill=(VICTIM,))


FAULTS = (
    Fault("stopped", partial(killed_worker, fault="stopped"), _stopped, needs_ray=True),
    Fault("worker", partial(killed_worker, fault="worker"), _once, needs_ray=True),
    Fault(
        "killer",
        partial(killed_worker, fault="killer"),
        _always,
        needs_ray=True,
        spared=frozenset({VICTIM}),
    ),
)
