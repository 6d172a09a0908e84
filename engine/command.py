"""How every job's command ends: its result or its refusal in one line, and an exit code.

`jobs/X.py` hands its work to `run_command`, so that all jobs treat settings, refusals, Ctrl-C,
signals and a pipe or terminal that goes away alike. The exit codes of all jobs:

    0    all is done
    1    something failed or is damaged; all the rest is finished
    2    refused: nothing was begun, or it cannot go on as it is
    3    the Ray cluster went away in mid-job: start the same command again to go on
    129  the terminal was closed (SIGHUP), 130  Ctrl-C, 143  SIGTERM: start again to go on

Prints nothing itself; the job says how (`say` takes what `print` takes). Knows no job.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from engine.display import lasting_output
from engine.errors import ClusterLostError, EngineError, one_line, printable
from engine.log import show_log

DONE, INCOMPLETE, REFUSED, LOST = 0, 1, 2, 3
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
_ENDING = {signal.SIGTERM: "ended by SIGTERM", signal.SIGHUP: "the terminal was closed"}


class _Terminated(BaseException):
    """A signal, as an exception: `with` blocks are left, and what they hold is let go of."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


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
        What `job` returned, or another of the codes above.
    """
    with lasting_output():
        show_log()
        try:
            with _signals_raise():
                return job()
        except ClusterLostError as error:
            say(f"error: {one_line(error)}", file=sys.stderr)
            return LOST
        except (EngineError, OSError) as error:
            say(f"error: {_words(error)}", file=sys.stderr)
            return REFUSED
        except KeyboardInterrupt:
            _leave_at_once_from_now_on()
            say(f"interrupted; {again}", file=sys.stderr)
            return INTERRUPTED
        except _Terminated as end:
            _leave_at_once_from_now_on()
            say(f"{_ENDING[end.number]}; {again}", file=sys.stderr)
            return 128 + end.number


def _words(error: Exception) -> str:
    """What to tell of an error; the system's own ones say neither where nor what to do."""
    if isinstance(error, EngineError) or not isinstance(error, OSError) or not error.filename:
        return one_line(error)
    told = f"{printable(os.fsdecode(error.filename))}: {error.strerror or type(error).__name__}"
    if isinstance(error, PermissionError):
        told += "; ask its owner to share it (chmod -R g+rwX), or choose another place"
    return told


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and a closed terminal unwind the job as Ctrl-C does, instead of cutting it off."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise _Terminated(number)

    if threading.current_thread() is not threading.main_thread():  # only there can it be set
        yield
        return
    # `nohup` ignores SIGHUP, and shall
    wanted = [n for n in _ENDING if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_at_once_from_now_on() -> None:
    """The work is unwound: another Ctrl-C ends the process, instead of a traceback of its end."""

    def leave(number: int, _frame: FrameType | None) -> None:
        os._exit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, leave)


def own_signals() -> None:
    """Set this process's handlers of ending signals once more, after a library has set its own.

    Ray's core sets one for SIGTERM that prints C stacks. Only the main thread can.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (*_ENDING, signal.SIGINT):
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, handler)
