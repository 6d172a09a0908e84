"""A computation on a GPU recorded once and replayed: one launch instead of hundreds.

A recording reads its inputs where they lay when it was made, and leaves its outputs where they were
then. Knows no network. `Recording` is what the tests play without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
Compute = Callable[[], Outputs]

WARM_UP = 2  # calls before recording: libraries choose kernels and take workspaces, others compile


class Recording(Protocol):
    """One recorded computation."""

    def record(self, compute: Compute) -> Outputs:
        """Run and record `compute`; its outputs hold what the last `replay` has computed."""
        ...

    def replay(self) -> None:
        """Compute again from what the inputs hold now."""
        ...


class CudaRecording:
    """A CUDA graph.

    Args:
        beside: a stream to record in.
        pool: memory that graphs share; they must not be replayed at once.
    """

    def __init__(self, beside: torch.cuda.Stream, pool: Any) -> None:
        self._beside, self._pool = beside, pool
        self._graph = torch.cuda.CUDAGraph()

    def record(self, compute: Compute) -> Outputs:
        """See `Recording`.

        Raises:
            RuntimeError: `compute` does what cannot be recorded, or there is no memory.
        """
        beside = self._beside
        here = torch.cuda.current_stream(beside.device)
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                compute()
        here.wait_stream(beside)
        # Other threads decode and draw noise meanwhile: their calls are none of the capture's.
        with torch.cuda.graph(
            self._graph, pool=self._pool, stream=beside, capture_error_mode="thread_local"
        ):
            outputs = compute()
        self._graph.replay()  # a capture computes nothing
        return outputs

    def replay(self) -> None:
        """See `Recording`."""
        self._graph.replay()


def cuda_recordings(device: torch.device) -> Callable[[], Recording]:
    """Makes recordings that share their memory."""
    make_stream: Callable[[torch.device], torch.cuda.Stream] = torch.cuda.Stream
    beside, pool = make_stream(device), torch.cuda.graph_pool_handle()
    return lambda: CudaRecording(beside, pool)
