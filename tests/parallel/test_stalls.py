"""Workers that give no sign: named once, and ended where that is asked."""

import logging
import os
import signal
import subprocess
import time
from typing import Any

import pytest

from engine.parallel.rows.pulse import born
from engine.parallel.rows.stalls import NAMED_AFTER_S, Stalls, _kill

LOOK_S = 4.0


def sign(beats: int, steps: int, rows: int = 1) -> dict[str, dict[str, Any]]:
    sign = {"host": "h1", "pid": 7, "node": "n", "born": "1"}
    return {"w": {**sign, "beats": beats, "steps": steps, "rows": rows}}


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("engine").propagate = True
    caplog.set_level(logging.WARNING, "engine")
    return caplog


def test_a_stopped_worker_is_named_once_by_host_and_process(
    logged: pytest.LogCaptureFixture,
) -> None:
    ended: list[dict[str, Any]] = []
    stalls = Stalls(None, ended.append)
    for _ in range(int(3 * NAMED_AFTER_S / LOOK_S)):
        stalls.look(sign(5, 5), LOOK_S)
    assert logged.text.count("the worker h1:7 gives no sign of life for 60 s") == 1
    assert "--stall-timeout" in logged.text
    assert not ended


def test_a_worker_without_rows_or_with_steps_is_not_stalled(
    logged: pytest.LogCaptureFixture,
) -> None:
    ended: list[dict[str, Any]] = []
    stalls = Stalls(20.0, ended.append)
    for _ in range(30):
        stalls.look(sign(5, 5, rows=0), LOOK_S)
    for look in range(30):
        stalls.look(sign(look, look), LOOK_S)
    assert not ended
    assert not logged.text


@pytest.mark.parametrize("alive", [True, False])
def test_a_stuck_worker_is_ended_after_the_timeout(
    logged: pytest.LogCaptureFixture, alive: bool
) -> None:
    ended: list[dict[str, Any]] = []
    stalls = Stalls(20.0, ended.append)
    for look in range(6):
        stalls.look(sign(look if alive else 1, 5), LOOK_S)
    assert [(end["pid"], end["silent"]) for end in ended] == [(7, not alive)]
    assert "h1:7 made no step for 20 s (--stall-timeout)" in logged.text
    stalls.look({}, LOOK_S)  # it is gone


def test_a_stopped_process_is_killed_and_a_later_one_of_its_number_is_not() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        os.kill(process.pid, signal.SIGSTOP)
        told: list[str] = []
        _kill(process.pid, "another birth", "n", told.append)
        time.sleep(0.1)
        assert process.poll() is None
        _kill(process.pid, born(process.pid), "n", told.append)
        assert process.wait(10) == -signal.SIGKILL
        assert told == [f"n:{process.pid}"], "it was stopped, by no fault of its rows"
    finally:
        process.kill()


@pytest.mark.parametrize("node", ["n", ""])
def test_only_a_process_that_was_kept_from_working_is_told(node: str) -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        if not node:  # it gave signs: a thread of it happened to wait
            os.kill(process.pid, signal.SIGSTOP)
        told: list[str] = []
        _kill(process.pid, born(process.pid), node, told.append)
        assert process.wait(10) == -signal.SIGKILL
        assert not told
    finally:
        process.kill()
