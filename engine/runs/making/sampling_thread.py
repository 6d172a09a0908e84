"""One sampling loop in a thread of its own, fed one request at a time from anywhere.

`Sampler.sample_many` pulls requests and yields outcomes; workers push requests and wait for theirs.
This stands between the two. Knows no plan, no Ray and no model.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from engine.errors import RunError
from engine.sampling.request import Outcome, SampledVolume, SampleRequest

OnWindow = Callable[[str, int, int], None]
SampleMany = Callable[[Iterable[SampleRequest | None], OnWindow | None], Iterator[Outcome]]


class SamplerStoppedError(RunError):
    """The sampling loop broke while this sample, and perhaps others, were in it."""


class SamplingThread:
    """Keeps `sample_many` going for as long as requests come.

    Args:
        sample_many: the loop.
        on_window: called with (sample_id, windows done, windows in all).
        num_threads: for torch in the loop's thread; it counts threads by thread.
    """

    def __init__(self, sample_many: SampleMany, on_window: OnWindow, num_threads: int) -> None:
        self._sample_many, self._on_window = sample_many, on_window
        self._num_threads = num_threads
        self._coming: queue.SimpleQueue[SampleRequest] = queue.SimpleQueue()
        self._waiting: dict[str, Future[SampledVolume]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, request: SampleRequest) -> Future[SampledVolume]:
        """Have a volume made; its future raises what went wrong with it.

        Raises (in the future):
            SamplingError: this sample cannot be made.
            SamplerStoppedError: the loop broke; the next request starts it again.
        """
        future: Future[SampledVolume] = Future()
        with self._lock:
            assert request.sample_id not in self._waiting, "a sample is in work once"
            self._waiting[request.sample_id] = future
            self._coming.put(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sampling", daemon=True)
                self._thread.start()
        return future

    def _requests(self) -> Iterator[SampleRequest | None]:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None  # the next request starts another
                    return
            try:
                yield self._coming.get_nowait()
            except queue.Empty:
                yield None

    def _run(self) -> None:
        import torch  # not at the top: the driver names workers, and shall not load it

        torch.set_num_threads(self._num_threads)
        try:
            for outcome in self._sample_many(self._requests(), self._on_window):
                with self._lock:
                    future = self._waiting.pop(outcome.sample_id)
                if outcome.error is not None:
                    future.set_exception(outcome.error)
                else:
                    future.set_result(outcome.result())
        except Exception as error:  # whatever broke, nobody may wait for ever
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # nobody waits for this loop any more
            waiting, self._waiting = self._waiting, {}
            self._coming = queue.SimpleQueue()
            self._thread = None
        for name, future in waiting.items():
            future.set_exception(
                SamplerStoppedError(
                    f"{name}: the sampling loop stopped ({type(error).__name__}: {error}); "
                    "start the job again, with smaller batches if memory ran out"
                )
            )
