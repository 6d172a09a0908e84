"""The driver is killed at every step of a run, then started again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import engine.runs.jobs.resample as job
from engine.runs.planning import rows as planning
from engine.runs.record import plan
from engine.runs.record.ledger import attempts, renamed
from engine.storage.files import put
from faults.bench import DEADLINE_S, Bench, Fault
from faults.sampler import VICTIM, FakeSampler


def killed_driver(bench: Bench, out: Path, fault: str) -> str:
    """SIGKILL of the whole job, then the same command again."""
    if bench.child(out, fault).wait(DEADLINE_S) != -signal.SIGKILL:
        return "the job was not killed"
    if fault == "ledger":  # what broke off is an attempt's record: named, removed as told, again
        for record in (out / "attempts").glob("*/*.json"):
            with suppress(ValueError):
                json.loads(record.read_text())
                continue
            record.unlink()
    return bench.again(out)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_planning(marks: Path) -> FakeSampler:
    def rows(facts: dict[str, planning.CaseFacts], *_: Any) -> Iterator[plan.PlanRow]:
        yield planning.build_plan(facts, list(facts), "own", 1, 0)[0]
        _die()

    setattr(job, "plan_rows", rows)  # noqa: B010  # mypy knows the module's own function
    return FakeSampler(marks)


def _die_sampling(marks: Path) -> FakeSampler:
    return FakeSampler(marks, once=(VICTIM,))


def _die_committing(marks: Path, step: str) -> FakeSampler:
    """At a step of the second volume (of the first attempt's record, for the ledger)."""
    records = 0
    rename = Path.rename

    def deadly_put(path: Path, text: str) -> None:
        nonlocal records
        is_record = path.parent.name == "commits"
        records += is_record
        if is_record and records == 2 and step == "rename and commit":
            _die()
        put(path, text)
        if not is_record and step == "ledger" and path.parent.parent.name == "attempts":
            path.write_text(text[: len(text) // 2])  # not even the rename was atomic
            _die()

    def deadly_rename(path: Path, target: Path) -> Path:
        if step == "stage and rename" and path.parent.name == "staging" and records == 1:
            _die()
        return rename(path, target)

    for part in (attempts, renamed):
        setattr(part, "put", deadly_put)  # noqa: B010
    setattr(Path, "rename", deadly_rename)  # noqa: B010
    return FakeSampler(marks)


_STEPS: dict[str, Callable[[Path], FakeSampler]] = {
    "planning": _die_planning,
    "mid-volume": _die_sampling,
    **{
        step: partial(_die_committing, step=step)
        for step in ("stage and rename", "rename and commit", "ledger")
    },
}

FAULTS = tuple(
    Fault(name, partial(killed_driver, fault=name), inside) for name, inside in _STEPS.items()
)
