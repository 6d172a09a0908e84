"""What the benchmarks ask of the machine they run on: its name, its memory, its peak."""

from __future__ import annotations

import math
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PRODUCTS = 8


def matrix_peak_gflops(dtype: torch.dtype, device: str = "cpu", size: int = 2048) -> float:
    """Best rate of a square matrix product in this precision, with the threads torch has now.

    Args:
        dtype: of both factors.
        device: "cpu" or "cuda".
        size: edge of the matrices.
    """
    import torch

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(_PRODUCTS):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best / 1e9


def synchronize(device: str) -> None:
    """Wait for the GPU, where there is one."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def device_name(device: str = "cpu") -> str:
    """For the record."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def about() -> dict[str, Any]:
    """Where something was measured."""
    return {"cpu": device_name(), "cores": os.cpu_count()}


def about_device(device: str) -> dict[str, Any]:
    """The device and the versions that decide how fast it computes."""
    import torch

    found: dict[str, Any] = {"device": device_name(device), "torch": torch.__version__, **about()}
    if device == "cuda":
        cudnn: Any = torch.backends.cudnn
        found |= {"cuda": torch.version.cuda, "cudnn": cudnn.version()}
    return found


def own_peak_mb() -> float:
    """Largest resident memory of this process since it was started (Linux).

    `getrusage` would tell that of the process it was forked from, where this was larger.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(float(line.split()[1]) * 1024 / 1e6, 1)
    return math.nan
