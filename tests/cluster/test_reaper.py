"""The reaper ends what it started, nothing else, however it is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

# Writes the pid of a process that has left the group and the session, then does as told.
DAEMON = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
path = pathlib.Path(sys.argv[1])
path.with_suffix(".part").write_text(str(child.pid))
path.with_suffix(".part").rename(path)
time.sleep(float(sys.argv[2]))
sys.exit(int(sys.argv[3]))
"""


def reaper(*command: str, owner: int | None = None) -> subprocess.Popen[bytes]:
    options = ["--owner", str(owner)] if owner is not None else []
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.reaper", *options, "--", sys.executable, *command],
        start_new_session=True,
    )


def started(path: Path) -> psutil.Process:
    for _ in range(1200):
        if path.exists():
            return psutil.Process(int(path.read_text()))
        time.sleep(0.05)
    pytest.fail("the command did not start")


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_exit_code_passes_through_and_daemons_are_ended(tmp_path: Path) -> None:
    keeper = reaper("-c", DAEMON, str(tmp_path / "pid"), "0.5", "7")
    daemon = started(tmp_path / "pid")
    assert keeper.wait(timeout=90) == 7
    assert ended(daemon)


def test_a_command_ended_by_a_signal_gives_128_plus_its_number() -> None:
    keeper = reaper("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert keeper.wait(timeout=90) == 128 + signal.SIGKILL


def test_sigterm_ends_the_command_and_its_daemons(tmp_path: Path) -> None:
    keeper = reaper("-c", DAEMON, str(tmp_path / "pid"), "600", "0")
    daemon = started(tmp_path / "pid")
    keeper.terminate()
    assert keeper.wait(timeout=90) == 128 + signal.SIGTERM
    assert ended(daemon)


def test_sigint_is_left_to_the_command(tmp_path: Path) -> None:
    keeper = reaper("-c", DAEMON, str(tmp_path / "pid"), "1.5", "5")
    started(tmp_path / "pid")
    keeper.send_signal(signal.SIGINT)
    assert keeper.wait(timeout=90) == 5


def test_the_end_of_the_owner_ends_everything(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    keeper = reaper("-c", DAEMON, str(tmp_path / "pid"), "600", "0", owner=owner.pid)
    daemon = started(tmp_path / "pid")
    owner.kill()
    owner.wait()
    keeper.wait(timeout=90)
    assert ended(daemon)


def test_a_process_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        keeper = reaper("-c", DAEMON, str(tmp_path / "pid"), "0", "0")
        assert keeper.wait(timeout=90) == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
