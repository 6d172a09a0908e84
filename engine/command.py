"""How every job's command ends: its result or its refusal in one line, and an exit code.

`jobs/X.py` hands its work to `run_command`, so that all jobs treat settings, refusals, Ctrl-C and
SIGTERM alike. Prints nothing itself; the job says how (`say` takes what `print` takes). Knows no
job.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from engine.errors import EngineError, one_line
from engine.log import show_log

DONE, INCOMPLETE, REFUSED = 0, 1, 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class _Terminated(BaseException):
    """SIGTERM, as an exception: `with` blocks are left, and what they hold is let go of."""


def run_command(
    job: Callable[[], int],
    say: Callable[..., None],
    again: str = "start the same command again to go on",
) -> int:
    """Run a job and return its exit code.

    Args:
        job: parses its settings, works, says what came of it; returns 0 (all done) or 1 (the rest
            is finished, but something failed or is damaged).
        say: `print`, or what stands for it.
        again: what to do after an interruption.

    Returns:
        What `job` returned; 2: refused; 130: interrupted by Ctrl-C; 143: ended by SIGTERM.
    """
    show_log()
    try:
        with _sigterm_raises():
            return job()
    except (EngineError, OSError) as error:
        say(f"error: {one_line(error)}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        say(f"interrupted; {again}", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        say(f"ended by SIGTERM; {again}", file=sys.stderr)
        return TERMINATED


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM unwinds the job as Ctrl-C does, instead of cutting it off."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # only there can it be set
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
