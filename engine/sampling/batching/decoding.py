"""Latents to images beside denoising: a thread of its own, and on a GPU a stream of its own.

Memory is bounded: a few slices are decoded at a time, and only so many volumes wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
QUEUE = 2  # volumes that may wait for their end, on a CPU
WAITING_MB = 1024.0  # of host memory for images, on a GPU


class Finisher(Generic[T]):
    """Runs the last part of volumes in order of their end.

    Args:
        device: a CUDA device gets a second stream.
        beside: in a thread, else at once in the caller's (the reference profile).
        num_threads: for CPU arithmetic in that thread; torch counts threads by thread.
        queue: volumes that may wait for their end before no more are sent.
    """

    def __init__(
        self, device: torch.device, beside: bool, num_threads: int, queue: int = QUEUE
    ) -> None:
        self._queue = queue
        self._stream = _second_stream(device) if beside else None
        self._pool = ThreadPoolExecutor(1, "finish", torch.set_num_threads, (num_threads,))
        self._beside = beside
        self._running: deque[Future[T]] = deque()

    def __enter__(self) -> Finisher[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, work: Callable[[], T]) -> None:
        """Queue the last part of a volume whose latents are whole."""
        ready = None
        if self._stream is not None:
            ready = torch.cuda.current_stream().record_event()
        if not self._beside:
            done: Future[T] = Future()
            done.set_result(work())
            self._running.append(done)
            return
        self._running.append(self._pool.submit(self._run, work, ready))

    def finished(self, wait: bool = False) -> Iterator[T]:
        """Results in order of submission: those that are there, and with `wait` all others.

        Waits, too, while more volumes are behind than may wait.
        """
        while self._running and (
            wait or self._running[0].done() or len(self._running) > self._queue
        ):
            yield self._running.popleft().result()

    def _run(self, work: Callable[[], T], ready: torch.cuda.Event | None) -> T:
        context: AbstractContextManager[object] = nullcontext()
        if self._stream is not None and ready is not None:
            self._stream.wait_event(ready)
            context = torch.cuda.stream(self._stream)
        with context:
            result = work()
        if self._stream is not None:
            self._stream.synchronize()
        return result


def queue_length(device: torch.device, image_mb: float) -> int:
    """How many volumes may wait: on a GPU those of a whole batch end at once."""
    return QUEUE if device.type != "cuda" else max(QUEUE, int(WAITING_MB / image_mb))


def _second_stream(device: torch.device) -> torch.cuda.Stream | None:
    make: Callable[..., torch.cuda.Stream] = torch.cuda.Stream
    return make(device) if device.type == "cuda" else None
