"""Seconds of work on a device, taken without waiting for it.

A CPU's clock is read at once. On a GPU an event is put into the current stream; how far two events
lie apart is asked when both have passed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch

_event: Callable[..., torch.cuda.Event] = torch.cuda.Event  # torch leaves it untyped
Mark: TypeAlias = "float | torch.cuda.Event"


def mark(device: torch.device) -> Mark:
    """This place in the device's work."""
    if device.type != "cuda":
        return time.perf_counter()
    event = _event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(start: Mark, end: Mark) -> float:
    """Seconds that the device worked from one mark to the other; waits for the second."""
    if isinstance(start, float):
        assert isinstance(end, float)
        return end - start
    assert not isinstance(end, float)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


class Stopwatch:
    """Seconds of one volume by stage."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: dict[str, list[tuple[Mark, Mark, float]]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what is done inside."""
        start = mark(self._device)
        yield
        self.add(name, start, mark(self._device))

    def add(self, name: str, start: Mark, end: Mark, share: float = 1.0) -> None:
        """Count a part of what was done between two marks."""
        self._spans[name].append((start, end, share))

    def seconds(self) -> dict[str, float]:
        """By stage; waits until the last of it is done."""
        return {
            name: sum(share * seconds_between(start, end) for start, end, share in spans)
            for name, spans in self._spans.items()
        }
