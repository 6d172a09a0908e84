"""Runs one command and, when it ends, ends every process that came out of it.

Stands around `ray start` and around the tests: Ray's helpers start sessions of their own, and
killing the first process would leave some of them behind. Knows nothing of Ray, and only ever
signals its own descendants. On Linux it becomes their subreaper, so that orphans stay in reach.

    python -m cluster.reaper [--owner PID] -- COMMAND ...

With `--owner`, the command is also ended when that process is gone, however it died.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from argparse import REMAINDER, ArgumentParser
from collections.abc import Iterable, Sequence
from types import FrameType

import psutil

GRACE_S = 5.0
POLL_S = 0.5
_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(args: Sequence[str]) -> int:
    """Run the command given in `args`; return its exit code."""
    parser = ArgumentParser(prog="python -m cluster.reaper", description="Run a command tidily.")
    parser.add_argument("--owner", type=int, help="end the command when this process is gone")
    parser.add_argument("command", nargs=REMAINDER, help="-- COMMAND ...")
    options = parser.parse_args(args)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command given; write it after `--`")
    return run(command, owner=options.owner)


def run(command: Sequence[str], *, owner: int | None = None) -> int:
    """Run `command` until it ends, this process is to stop, or the process `owner` is gone.

    SIGINT is left to the command: a terminal sends it to the whole process group. SIGTERM and
    SIGHUP are passed on as SIGTERM. Whatever is alive afterwards gets SIGTERM, then SIGKILL.

    Returns:
        the command's exit code; 128 + n if signal n ended it.
    """
    stopping: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            stopping.append(number)

    _become_subreaper()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    owner_process = _find(owner)
    child = subprocess.Popen(list(command), preexec_fn=_die_with_parent if _LINUX else None)
    code: int | None = None
    seen: set[psutil.Process] = set()
    while code is None:
        if stopping or (owner is not None and not _alive(owner_process)):
            code = _stop(child)
            break
        seen = {process for process in seen if _alive(process)}.union(descendants())
        _reap_orphans(seen, child.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(timeout=POLL_S)
    end_all(seen.union(descendants()))
    return code if code >= 0 else 128 - code


def descendants() -> list[psutil.Process]:
    """Every process that this one started, directly or not, and that is not yet reaped."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process().children(recursive=True)
    return []


def end_all(processes: Iterable[psutil.Process], *, grace_s: float = GRACE_S) -> None:
    """SIGTERM `processes`; after `grace_s` seconds SIGKILL them and all that we started since."""
    alive = list(processes)
    for process in alive:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(alive, timeout=grace_s)
    for _ in range(20):
        alive = list({*alive, *descendants()})
        if not alive:
            return
        for process in alive:
            _signal(process, signal.SIGKILL)
        _, alive = psutil.wait_procs(alive, timeout=0.5)


def _stop(child: subprocess.Popen[bytes]) -> int:
    child.terminate()
    try:
        return child.wait(timeout=2 * GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _reap_orphans(processes: Iterable[psutil.Process], child: int) -> None:
    """Collect adopted processes that have ended; the command itself is left to `Popen.wait`."""
    for process in processes:
        if process.pid != child:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)  # psutil compares creation times: never a recycled pid


def _find(pid: int | None) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid) if pid is not None else None
    return None


def _alive(process: psutil.Process | None) -> bool:
    with contextlib.suppress(psutil.Error):
        return process is not None and process.status() != psutil.STATUS_ZOMBIE
    return False


def _become_subreaper() -> None:
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _die_with_parent() -> None:
    """In the child: get SIGTERM when the reaper itself is killed (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
