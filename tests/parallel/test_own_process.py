import os
import signal

import pytest

from engine.errors import ConfigError, RunError
from engine.parallel.own_process import in_own_process


def refuse(message: str) -> None:
    raise ConfigError(message)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_result_comes_from_another_process_that_is_gone() -> None:
    number = in_own_process(os.getpid)
    assert number != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_what_it_raises_is_raised_here() -> None:
    with pytest.raises(ConfigError, match="too narrow"):
        in_own_process(refuse, "too narrow")


def test_a_killed_process_is_told_from_one_that_fails() -> None:
    with pytest.raises(RunError, match="die: its process ended with code -9"):
        in_own_process(die)
