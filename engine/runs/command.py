"""How the command of a generating job ends: its outcome or its refusal in words, and an exit code.

Prints nothing itself; the job says how (`say` takes what `print` takes).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from engine.errors import EngineError, one_line
from engine.log import show_log
from engine.runs.generate import Outcome


def run_command(job: Callable[[], Outcome], say: Callable[..., None]) -> int:
    """Run a job, say where to look, return the exit code.

    Args:
        job: parses and runs.
        say: `print`, or what stands for it.

    Returns:
        0: every planned volume exists. 1: some failed. 2: refused. 130: interrupted.
    """
    show_log()
    try:
        outcome = job()
    except (EngineError, OSError) as error:
        say(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("interrupted; start the same command again for the rest", file=sys.stderr)
        return 130
    summary = outcome.summary
    say(
        f"{summary.committed} of {summary.planned} volumes, {summary.failed} failed; "
        f"report: {outcome.report}"
    )
    return 1 if summary.failed else 0
