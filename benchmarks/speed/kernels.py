"""How much of a GPU's time its kernels fill, and which kinds of kernels, by torch's profiler."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

_TOP = 12
_KINDS = (  # the first that fits
    ("layout and casts", r"nchwToNhwc|nhwcToNchw|memcpy|memset|copy|transpose|cat_?array|CatArray"),
    ("attention", r"flash|fmha|attention|softmax"),
    ("norm", r"norm|welford|moments"),
    ("convolution and product", r"conv|gemm|cutlass|xmma|cudnn|wgrad|dgrad|nvjet|winograd|mma"),
    ("compiled", r"triton"),
)


@dataclass(frozen=True)
class KernelTimes:
    """What a GPU did while something was computed once.

    Attributes:
        wall_s: of the same work without the profiler.
        kernel_s: sum over all kernels and copies; above `wall_s` where streams overlap.
        busy_s: time in which at least one of them ran.
        count: of kernels and copies.
        kinds: share of `kernel_s` by kind.
        top: the kernels that took longest: name, share of `kernel_s`, calls.
    """

    wall_s: float
    kernel_s: float
    busy_s: float
    count: int
    kinds: dict[str, float]
    top: tuple[tuple[str, float, int], ...]


def kernel_times(work: Callable[[], object]) -> KernelTimes:
    """Do `work` twice on the GPU, the second time under the profiler; it must be warm."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    wall = time.perf_counter() - started
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    found = [
        (event.name, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in seen.events() or ()
        if event.device_type.name == "CUDA"
    ]
    return summary(wall, found)


def summary(wall_s: float, events: Iterable[tuple[str, float, float]]) -> KernelTimes:
    """Of events `(name, start, end)` in seconds."""
    events = list(events)
    by_name: dict[str, list[float]] = defaultdict(list)
    for name, start, end in events:
        by_name[name].append(end - start)
    total = sum(sum(each) for each in by_name.values()) or float("nan")
    kinds: dict[str, float] = defaultdict(float)
    for name, each in by_name.items():
        kinds[kind_of(name)] += sum(each) / total
    longest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:_TOP]
    return KernelTimes(
        wall_s,
        total,
        covered_s((start, end) for _, start, end in events),
        len(events),
        {kind: round(share, 3) for kind, share in sorted(kinds.items(), key=lambda k: -k[1])},
        tuple((name[:90], round(sum(each) / total, 3), len(each)) for name, each in longest),
    )


def kind_of(kernel: str) -> str:
    """What a kernel does, by its name."""
    for kind, pattern in _KINDS:
        if re.search(pattern, kernel, re.IGNORECASE):
            return kind
    return "elementwise and other"


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans `(start, end)`.

    >>> covered_s([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
    4.0
    """
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
