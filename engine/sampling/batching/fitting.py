"""A number of slices that fits: halved when memory runs out, and told once each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from engine.errors import SamplingError
from engine.log import get_logger
from engine.memory import is_out_of_memory

T = TypeVar("T")
log = get_logger(__name__)


class FittingSlices:
    """How many slices are encoded or decoded together.

    Args:
        doing: for messages: "encoding" or "decoding".
        size: to begin with.
    """

    def __init__(self, doing: str, size: int) -> None:
        self._doing, self.size = doing, size

    def run(self, work: Callable[[int], T], sample_id: str) -> T:
        """`work(size)`, again with half of it as long as memory runs out.

        Raises:
            SamplingError: it does so with a single slice.
        """
        while True:
            try:
                return work(self.size)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            if self.size == 1:
                raise SamplingError(
                    f"{sample_id}: out of memory {self._doing} a single slice; use a device with "
                    "more memory or weights with a smaller autoencoder"
                )
            self.size //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning("out of memory: %s %d slices at a time", self._doing, self.size)
