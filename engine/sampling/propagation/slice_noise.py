"""The noise of one sample's slices where its latents live, drawn on the CPU and ahead of its use.

What is drawn is `diffusion/noise.py`'s business and does not depend on when, where or in which
order: a slice's noise is a function of seed, sample, slice and purpose. On a GPU a thread draws
into pinned memory, and one copy that nobody waits for brings it over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from engine.sampling.diffusion.noise import draw_noise


@contextmanager
def drawing_thread(device: torch.device) -> Iterator[Executor | None]:
    """A thread that draws noise ahead for a GPU; a CPU draws when it needs to."""
    if device.type != "cuda":
        yield None
        return
    with ThreadPoolExecutor(1, "noise") as thread:
        yield thread


class SliceNoise:
    """Unit Gaussian noise by slice and purpose.

    Args:
        shape: `c h w` of one slice.
        seed: of the run.
        sample_id: of the volume.
        device: where it is needed.
        thread: draws what is asked for ahead; None draws at once.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        seed: int,
        sample_id: str,
        device: torch.device,
        thread: Executor | None = None,
    ) -> None:
        self._shape, self._seed, self._sample_id = shape, seed, sample_id
        self._device, self._thread = device, thread
        self._ahead: dict[tuple[int, int, str], Future[Tensor]] = {}

    def draw_ahead(self, start: int, stop: int, purpose: str) -> None:
        """Begin to draw what `of` will be asked for with the same arguments."""
        if self._thread is not None:
            rows = range(start, stop)
            drawn = self._thread.submit(self._draw, start, stop, purpose, rows)
            self._ahead[start, stop, purpose] = drawn

    def of(
        self, start: int, stop: int, purpose: str, needed: Iterable[int] | None = None
    ) -> Tensor:
        """Noise of slices `start` to `stop`, `n c h w`; zero where a slice is not `needed`."""
        ahead = self._ahead.pop((start, stop, purpose), None)
        if ahead is not None:
            drawn = ahead.result()
        else:
            rows = range(start, stop) if needed is None else needed
            drawn = self._draw(start, stop, purpose, rows)
        return drawn.to(self._device, non_blocking=True)

    def _draw(self, start: int, stop: int, purpose: str, rows: Iterable[int]) -> Tensor:
        pinned = self._device.type == "cuda"
        drawn = torch.zeros((stop - start, *self._shape), pin_memory=pinned)
        for z in rows:
            draw_noise(self._shape, self._seed, self._sample_id, z, purpose, drawn[z - start])
        return drawn
