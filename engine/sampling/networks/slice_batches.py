"""A network on slices, in batches of one size, recorded once on a GPU.

Encoders and decoders of small models are hundreds of launches of a few microseconds each. The last
batch of a volume is filled up: what a new shape costs is more than rows in vain.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.log import get_logger
from engine.memory import is_out_of_memory
from engine.sampling.networks.recording import Outputs, Recording

log = get_logger(__name__)


class SliceBatches:
    """Evaluations of one network for slices.

    Args:
        compute: `m ...` slices to `m ...` results.
        make_recording: None evaluates launch by launch, and fills nothing up.
    """

    def __init__(
        self,
        compute: Callable[[Tensor], Tensor],
        make_recording: Callable[[], Recording] | None = None,
    ) -> None:
        self._compute, self._make_recording = compute, make_recording
        self._rows: Tensor | None = None
        self._recording: Recording | None = None
        self._outputs: Outputs | None = None

    def __call__(self, rows: Tensor, num: int) -> Tensor:
        """Results of at most `num` slices, valid until the next call.

        Raises:
            OutOfMemoryError: there is no memory for `num` of them.
        """
        if self._make_recording is None:
            return self._compute(rows)
        if self._rows is None or self._rows.shape != (num, *rows.shape[1:]):
            self._rows = self._recording = self._outputs = None  # makes room first
            self._rows = rows.new_zeros((num, *rows.shape[1:]))
            self._recording = self._make_recording()
        self._rows[: len(rows)] = rows
        return self._run(self._rows)[: len(rows)]

    def _run(self, filled: Tensor) -> Tensor:
        if self._recording is None:
            return self._compute(filled)
        if self._outputs is not None:
            self._recording.replay()
            return self._outputs[0]
        try:
            self._outputs = self._recording.record(lambda: (self._compute(filled),))
        except RuntimeError as error:
            self._recording = None
            if is_out_of_memory(error) or is_out_of_memory(error.__context__ or error):
                self._rows = None
                raise torch.OutOfMemoryError(f"out of memory recording slices ({error})") from None
            log.warning("slices cannot be recorded and are computed launch by launch: %s", error)
            return self._compute(filled)
        return self._outputs[0]
