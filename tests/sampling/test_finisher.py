"""The last part of volumes: in order, bounded, and beside the caller."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from engine.sampling.batching import decoding
from engine.sampling.batching.decoding import Finisher, queue_length

CPU = torch.device("cpu")


class Event:
    """Passed when the test says so, or when somebody waits."""

    def __init__(self) -> None:
        self.passed = False

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.passed = True


class Stream:
    """A second stream without a GPU."""

    device = CPU

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.waited_for: list[str] = []

    def wait_stream(self, other: str) -> None:
        self.waited_for.append(other)

    def record_event(self) -> Event:
        self.events.append(Event())
        return self.events[-1]

    def synchronize(self) -> None:
        for event in self.events:
            event.passed = True


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream()
    monkeypatch.setattr(decoding, "_second_stream", lambda device: made)
    monkeypatch.setattr(decoding, "_passed", Event.query)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: "main")
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    return made


def part(number: int, log: list[str]) -> Callable[[], Callable[[], int]]:
    def send() -> Callable[[], int]:
        log.append(f"send {number}")

        def collect() -> int:
            log.append(f"collect {number}")
            return number

        return collect

    return send


def test_in_a_stream_volumes_are_sent_at_once_and_collected_when_they_are_there(
    stream: Stream,
) -> None:
    log: list[str] = []
    with Finisher[int](CPU, beside=True, num_threads=1, queue=2) as finisher:
        finisher.submit(part(0, log))
        finisher.submit(part(1, log))
        assert log == ["send 0", "send 1"] and stream.waited_for == ["main", "main"]
        assert list(finisher.finished()) == []
        stream.events[1].passed = True
        assert list(finisher.finished()) == [], "in the order of submission"
        stream.events[0].passed = True
        assert list(finisher.finished()) == [0, 1]
        for number in (2, 3, 4):
            finisher.submit(part(number, log))
        assert list(finisher.finished()) == [2], "one more than may wait"
        assert list(finisher.finished(wait=True)) == [3, 4]


def test_in_a_thread_both_halves_run_there() -> None:
    threads: list[Any] = []

    def send() -> Callable[[], int]:
        threads.append(threading.current_thread())
        return lambda: 7

    with Finisher[int](CPU, beside=True, num_threads=1) as finisher:
        finisher.submit(send)
        assert list(finisher.finished(wait=True)) == [7]
    with Finisher[int](CPU, beside=False, num_threads=1) as finisher:
        finisher.submit(send)
        assert list(finisher.finished()) == [7]
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


def test_as_many_volumes_wait_as_memory_takes() -> None:
    assert queue_length(CPU, 40.0) == 2
    assert queue_length(torch.device("cuda"), 40.0) == 25
    assert queue_length(torch.device("cuda"), 4000.0) == 2
