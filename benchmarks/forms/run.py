"""Rows of bench_layers.py on a GPU, one JSON object a line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from forms.layers import attentions, compiled, convolutions, norms
from forms.networks import networks, profile_networks, quick
from forms.timing import DEVICE, Row, copy_bandwidth
from machine import device_name, matrix_peak_gflops
from models.cuda_layout import FastForms, best_forms
from models.presets import Preset

PARTS: dict[str, Callable[[Preset, torch.dtype, FastForms], Iterator[Row]]] = {
    "quick": quick,
    "networks": networks,
    "convolutions": convolutions,
    "attentions": attentions,
    "norms": norms,
    "compiled": compiled,
}


def measure(
    preset: Preset, dtype: torch.dtype, parts: Sequence[str]
) -> Iterator[dict[str, object]]:
    """One row a layer: milliseconds of each form, and its floor."""
    bandwidth, peak = copy_bandwidth(), matrix_peak_gflops(dtype, "cuda", 8192) / 1e3
    forms = best_forms(DEVICE, dtype)
    yield {
        "device": device_name("cuda"),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "bandwidth_gb_s": round(bandwidth),
        "matrix_peak_tflops": round(peak, 1),
        "forms": str(forms),
    }
    for part in parts:
        started = time.perf_counter()
        for row in PARTS[part](preset, dtype, forms):
            yield row.measured(bandwidth, peak)
        yield {"part": part, "seconds": round(time.perf_counter() - started, 1)}


def run(preset: Preset, dtype_name: str, parts: Sequence[str], profiled: bool) -> int:
    """Print a row a line; the profile comes before the single layers."""
    dtype: torch.dtype = getattr(torch, dtype_name)
    with torch.inference_mode():
        for row in measure(preset, dtype, parts):
            print(json.dumps(row), flush=True)
            if profiled and row.get("part") in ("quick", "networks"):
                print(profile_networks(preset, dtype), flush=True)
    return 0
