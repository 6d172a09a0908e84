"""Examples drawn ahead of the step that needs them, and brought to a GPU without waiting.

An example is a function of its step and number, so that neither the number of threads nor their
order changes it. Knows nothing of what an example is.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

Place = tuple[int, int]  # optimiser step, micro-batch


class ExamplesAhead:
    """Draws micro-batches in their order, some ahead.

    Args:
        draw: makes the examples of a place.
        accumulate: micro-batches a step.
        depth: micro-batches ahead, and threads that draw them.
        pinned: into page-locked memory, from which a GPU copies beside its own work.
    """

    def __init__(
        self, draw: Callable[[int, int], Any], accumulate: int, depth: int, *, pinned: bool
    ) -> None:
        self._draw, self._accumulate, self._depth = draw, accumulate, depth
        self._pinned = pinned
        self._pool = ThreadPoolExecutor(depth, "examples")
        self._waiting: deque[tuple[Place, Future[Any]]] = deque()

    def take(self, step: int, part: int) -> Any:
        """The examples of a place; what follows it is being drawn from now on."""
        if not self._waiting or self._waiting[0][0] != (step, part):  # the start, or a resume
            self._waiting.clear()
            self._put((step, part))
        while len(self._waiting) <= self._depth:
            self._put(self._after(self._waiting[-1][0]))
        return self._waiting.popleft()[1].result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _after(self, place: Place) -> Place:
        step, part = place
        return (step, part + 1) if part + 1 < self._accumulate else (step + 1, 0)

    def _put(self, place: Place) -> None:
        self._waiting.append((place, self._pool.submit(self._made, *place)))

    def _made(self, step: int, part: int) -> Any:
        examples = self._draw(step, part)
        return pinned(examples) if self._pinned else examples


def pinned(value: Any) -> Any:
    """The same with every tensor in page-locked memory, in tuples, lists and dataclasses too."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, tuple | list):
        return type(value)(pinned(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: pinned(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    return value


def on_device(value: Tensor, like: torch.device | Tensor) -> Tensor:
    """The tensor on a device (or as another is), without waiting for a GPU on the way to it."""
    device = like.device if isinstance(like, Tensor) else like
    return value.to(like, non_blocking=device.type == "cuda")
