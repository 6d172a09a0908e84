"""The last part of volumes beside denoising: a thread on a CPU, a second stream on a GPU.

It has two halves: what is sent (decode, copy to the host), and what is collected when that is
done. On a GPU both are called in the caller's thread, because libraries choose their kernels anew
for each thread. Memory is bounded: a few slices are decoded at a time, and only so many volumes
wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import torch

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Collect = Callable[[], T]
QUEUE = 2  # volumes that may wait for their end, on a CPU
WAITING_MB = 1024.0  # of host memory for images, on a GPU


class _Running(Protocol[T_co]):
    """A volume on its way."""

    def done(self) -> bool: ...

    def result(self) -> T_co: ...


class Finisher(Generic[T]):
    """Runs the last part of volumes in order of their end.

    Args:
        device: a CUDA device gets a second stream, a CPU a thread.
        beside: else at once in the caller's (the reference profile).
        num_threads: for CPU arithmetic in that thread; torch counts threads by thread.
        queue: volumes that may wait for their end before no more are sent.
    """

    def __init__(
        self, device: torch.device, beside: bool, num_threads: int, queue: int = QUEUE
    ) -> None:
        self._queue = queue
        self._stream = _second_stream(device) if beside else None
        self._pool: ThreadPoolExecutor | None = None
        if beside and self._stream is None:
            self._pool = ThreadPoolExecutor(1, "finish", torch.set_num_threads, (num_threads,))
        self._running: deque[_Running[T]] = deque()

    def __enter__(self) -> Finisher[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._stream is not None:
            self._stream.synchronize()

    def submit(self, send: Callable[[], Collect[T]]) -> None:
        """Queue the last part of a volume whose latents are whole."""
        if self._stream is not None:
            self._running.append(_InStream(send, self._stream))
        elif self._pool is not None:
            self._running.append(self._pool.submit(lambda: send()()))
        else:
            done: Future[T] = Future()
            done.set_result(send()())
            self._running.append(done)

    def finished(self, wait: bool = False) -> Iterator[T]:
        """Results in order of submission: those that are there, and with `wait` all others.

        Waits, too, while more volumes are behind than may wait.
        """
        while self._running and (
            wait or self._running[0].done() or len(self._running) > self._queue
        ):
            yield self._running.popleft().result()


class _InStream(Generic[T]):
    """Sent at once, behind what the current stream has been given so far."""

    def __init__(self, send: Callable[[], Collect[T]], stream: torch.cuda.Stream) -> None:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            self._collect = send()
        self._event = stream.record_event()

    def done(self) -> bool:
        return bool(_passed(self._event))

    def result(self) -> T:
        self._event.synchronize()
        return self._collect()


def queue_length(device: torch.device, image_mb: float) -> int:
    """How many volumes may wait: on a GPU those of a whole batch end at once."""
    return QUEUE if device.type != "cuda" else max(QUEUE, int(WAITING_MB / image_mb))


def _second_stream(device: torch.device) -> torch.cuda.Stream | None:
    make: Callable[..., torch.cuda.Stream] = torch.cuda.Stream
    return make(device) if device.type == "cuda" else None


_passed: Callable[[torch.cuda.Event], bool] = torch.cuda.Event.query  # torch leaves it untyped
