"""How a form of a layer is timed, and its floor.

A floor is the larger of bytes over the bandwidth and arithmetic over the matrix peak, both measured
in the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

ROUNDS, NUM_CLASSES, WINDOWS, SLICES = 5, 5, 4, 8
Forms = dict[str, Callable[[], object]]
DEVICE = torch.device("cuda")


class Row:
    """A layer at one shape.

    Args:
        name: of layer and shape.
        forms: what to time.
        flop: arithmetic of the layer.
        gb: bytes that it must move, in 10^9.
    """

    def __init__(self, name: str, forms: Forms, flop: float, gb: float) -> None:
        self.name, self.forms, self.flop, self.gb = name, forms, flop, gb

    def measured(self, bandwidth: float, peak: float) -> dict[str, object]:
        """Median milliseconds by form; one that fails says why."""
        floor = max(self.gb / bandwidth, self.flop / peak / 1e12) * 1e3
        found: dict[str, object] = {}
        for form, work in self.forms.items():
            try:
                found[form] = round(milliseconds(work), 4)
            except Exception as error:  # a form that the card lacks must not end the others
                found[form] = f"{type(error).__name__}: {str(error)[:120]}"
        return {"layer": self.name, "floor_ms": round(floor, 4), **found}


def milliseconds(work: Callable[[], object]) -> float:
    """Median over rounds, by events of the device."""
    for _ in range(2):
        work()
    times: list[float] = []
    make: Callable[..., torch.cuda.Event] = torch.cuda.Event
    for _ in range(ROUNDS):
        begun, ended = (make(enable_timing=True) for _ in range(2))
        begun.record()
        work()
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended))
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Of a large copy on the device, bytes read and written, in GB/s."""
    source = torch.randn(2**28, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / 1e6 / milliseconds(lambda: target.copy_(source))


def drawn(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random activations, channels-last where they have four dimensions."""
    x = torch.randn(shape, device=DEVICE).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
