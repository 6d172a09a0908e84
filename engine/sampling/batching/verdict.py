"""Whether what a batch estimated is finite: known on the device at once, looked at later.

On a GPU the answer travels beside the next steps, so that nobody waits for it. On a CPU it is
there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.sampling.batching.batcher import Job

_event: Callable[[], torch.cuda.Event] = torch.cuda.Event  # torch leaves both untyped
_passed: Callable[[torch.cuda.Event], bool] = torch.cuda.Event.query


class Verdict:
    """Of one batch.

    Args:
        finite: `b` bool on the device.
        jobs: to which each value belongs.
        ended: those of them that were the last of their window.
    """

    def __init__(self, finite: Tensor, jobs: Sequence[Job], ended: Sequence[Job]) -> None:
        self.jobs, self.ended = tuple(jobs), tuple(ended)
        self._event: torch.cuda.Event | None = None
        self._finite = finite
        if finite.is_cuda:
            self._finite = torch.empty(finite.shape, dtype=torch.bool, pin_memory=True)
            self._finite.copy_(finite, non_blocking=True)
            self._event = _event()
            self._event.record(torch.cuda.current_stream(finite.device))

    @property
    def is_there(self) -> bool:
        """Whether `bad` needs no waiting."""
        return self._event is None or _passed(self._event)

    def bad(self, volume: int | None = None) -> list[Job]:
        """Jobs, of one volume or of all, whose estimate is not finite; waits for the device."""
        if self._event is not None:
            self._event.synchronize()
        judged = zip(self.jobs, self._finite.tolist(), strict=True)
        return [job for job, fine in judged if not fine and volume in (None, job.volume)]
