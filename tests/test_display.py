"""What a job says cannot end it: pipes, full devices and terminals that go away."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHATTY = """
import sys
from engine.command import run_command
from engine.log import get_logger
def job():
    for number in range(3000):
        get_logger("engine.test").info("line %d of many \\u2603", number)
    print("done")
    print("a word to stderr", file=sys.stderr)
    return CODE
sys.exit(run_command(job, print))
"""


def start(
    code: int, stdout: Any, stderr: Any = subprocess.PIPE, **more: Any
) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", CHATTY.replace("CODE", str(code))]
    root = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(words, stdout=stdout, stderr=stderr, env=env, **more)


@pytest.mark.parametrize("code", [0, 1])
def test_a_reader_that_leaves_changes_nothing(code: int) -> None:
    process = start(code, subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b"a word to stderr\n"
    assert process.wait() == code


def test_a_full_device_changes_nothing() -> None:
    with Path("/dev/full").open("wb") as full:
        process = start(1, full, full)
        assert process.wait() == 1


def test_a_closed_stdout_changes_nothing() -> None:
    process = start(0, None, subprocess.PIPE, preexec_fn=lambda: os.close(1))
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    assert process.wait() == 0


def test_a_terminal_that_is_gone_changes_nothing() -> None:
    leader, follower = pty.openpty()
    process = start(0, follower, follower, start_new_session=True)
    os.close(follower)
    os.read(leader, 100)
    os.close(leader)  # no SIGHUP: it was not the controlling terminal
    assert process.wait() == 0


def test_a_terminal_of_few_letters_shows_escapes() -> None:
    words = [sys.executable, "-c", CHATTY.replace("CODE", "0")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, env=env, capture_output=True, check=True)
    assert rb"line 0 of many \u2603" in done.stdout
    assert not done.stderr.count(b"Traceback")
