#!/usr/bin/env python3
"""Evaluate a finished run beside the real cases that it was made from, and beside cheap rivals.

    python jobs/evaluate_run.py --run runs/mine --against runs/prepared
    python jobs/evaluate_run.py --run runs/mine --against runs/prepared --metrics fidelity texture

Writes evaluation/metrics.json into the run, and a section on its report.html. Exit code 0: every
volume was looked at. 1: some could not be. 2: refused. 3: the Ray cluster went away.
Codes of interruptions: `engine/command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.command import run_command
from engine.config import parse_job
from engine.errors import printable
from engine.runs.evaluating.settings import EvaluateJob
from engine.runs.jobs.evaluate import evaluate_run
from engine.runs.report.evaluation import Cell, Metrics


def main(args: Sequence[str]) -> int:
    """Parse, evaluate, show the tables; return the exit code."""

    def work() -> int:
        metrics, place = evaluate_run(parse_job(EvaluateJob, args, "Evaluate a run."))
        _show(metrics)
        print(f"metrics: {place}")
        return 1 if metrics.failed else 0

    return run_command(work, print)


def _show(metrics: Metrics) -> None:
    for table in metrics.tables:
        print(table.title)
        width = max(len(c.title) for c in table.columns)
        names = "  ".join(f"{name:>24s}" for name in table.rows)
        print(printable(f"  {'':{width}s}  {names}"))
        for column in table.columns:
            cells = [_text(row[column.name], column.digits) for row in table.rows.values()]
            shown = "  ".join(f"{cell:>24s}" for cell in cells)
            print(printable(f"  {column.title:{width}s}  {shown} {column.unit}"))
        for reason in table.reasons:
            print(printable(f"  absent: {reason}"))
    for warning in metrics.warnings:
        print(printable(f"warning: {warning}"))


def _text(cell: Cell, digits: int) -> str:
    if cell.mean is None:
        return "-"
    if cell.low is None or cell.high is None:
        return f"{cell.mean:.{digits}f}"
    return f"{cell.mean:.{digits}f} [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
