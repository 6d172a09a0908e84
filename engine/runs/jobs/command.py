"""What a generating job says at its end."""

from __future__ import annotations

from collections.abc import Callable

from engine.runs.jobs.job import Outcome


def tell_outcome(outcome: Outcome, say: Callable[..., None]) -> int:
    """Say how many volumes there are and where to look.

    Args:
        outcome: of the job.
        say: `print`, or what stands for it.

    Returns:
        Exit code. 0: every planned volume exists. 1: some failed.
    """
    summary = outcome.summary
    say(
        f"{summary.committed} of {summary.planned} volumes, {summary.failed} failed; "
        f"report: {outcome.report}"
    )
    return 1 if summary.failed else 0
