#!/usr/bin/env python
"""Forms of the same arithmetic: slice convolutions, layouts, attention, compile, windows a batch.

    python benchmarks/bench_layers.py [--preset gem3d_256] [--compile]
    python benchmarks/bench_layers.py --device cuda [--preset gem3d_512] [--profile]

Rates are GFLOP/s, the best of a few rounds, beside the matrix-product peak of the same run; forms
are timed in turn, so that a busy machine slows all of them. The last line is one JSON object. On a
GPU every line is one: milliseconds of each form of a layer, beside its floor (forms/).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from forms.run import PARTS, run
from machine import matrix_peak_gflops
from models.denoiser.attention import attend, attend_plainly
from models.denoiser.layers import SliceConv, freeze_for_cpu, set_plain
from models.denoiser.unet import Denoiser, to_channels_last
from models.presets import PRESETS, Preset
from network_input import network_input

ROUNDS = 5
NUM_CLASSES = 5
Forms = dict[str, Callable[[], object]]


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=sorted(PRESETS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--part", nargs="+", default=[*PARTS][1:-1], choices=PARTS)
    parser.add_argument("--profile", action="store_true", help="also where the time goes (cuda)")
    parser.add_argument("--trials", action="store_true", help="cuDNN tries its kernels (cuda)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--compile", action="store_true", help="also torch.compile (minutes)")
    options = parser.parse_args(args)
    if options.device == "cuda":
        name = options.preset or "gem3d_512"
        torch.backends.cudnn.benchmark = options.trials
        return run(PRESETS[name], options.dtype, options.part, options.profile)
    torch.set_num_threads(options.threads)
    preset = PRESETS[options.preset or "gem3d_256"]
    with torch.inference_mode():
        rates = {"matrix product": {"peak": round(matrix_peak_gflops(torch.float32), 1)}}
        rates |= layer_rates(preset) | denoiser_rates(preset, options.compile)
    for what, found in rates.items():
        print(f"{what:34s} " + "  ".join(f"{form} {value:.1f}" for form, value in found.items()))
    about = {"bench": "layers", "preset": preset.name, "threads": options.threads}
    print(json.dumps({**about, "gflops": rates}))
    return 0


def rate(forms: Forms, flop: float) -> dict[str, float]:
    """Best rate of each form in GFLOP/s; all forms in turn, several rounds."""
    best = dict.fromkeys(forms, math.inf)
    for work in forms.values():
        work()  # warm-up
    for _ in range(ROUNDS):
        for form, work in forms.items():
            started = time.perf_counter()
            work()
            best[form] = min(best[form], time.perf_counter() - started)
    return {form: round(flop / seconds / 1e9, 1) for form, seconds in best.items()}


def layer_rates(preset: Preset) -> dict[str, dict[str, float]]:
    """Slice convolution, plane convolution and attention at each resolution of the preset."""
    rates = {}
    n, spec = preset.window, preset.denoiser
    for level, multiplier in enumerate(spec.multipliers):
        c, edge = spec.base_channels * multiplier, preset.latent_px // 2**level
        size, place = f"{c} channels, {edge} px", n * edge * edge
        x = torch.randn(n, c, edge, edge)
        last = x.contiguous(memory_format=torch.channels_last)
        rates[f"slice convolution, {size}"] = rate(slice_forms(x, last), 6 * place * c * c)
        weight = torch.randn(c, c, 3, 3)
        weight_last = weight.contiguous(memory_format=torch.channels_last)
        planes: Forms = {
            "contiguous": partial(F.conv2d, x, weight, padding=1),
            "channels-last": partial(F.conv2d, last, weight_last, padding=1),
        }
        rates[f"plane convolution, {size}"] = rate(planes, 18 * place * c * c)
        if edge in spec.attention_px:
            q = torch.randn(n, edge * edge, c // spec.head_width, spec.head_width)
            attention: Forms = {
                "plain": partial(attend_plainly, q, q, q),
                "fused": partial(attend, q, q, q),
            }
            rates[f"attention, {size}"] = rate(attention, 4 * place * edge * edge * c)
    return rates


def slice_forms(x: Tensor, last: Tensor) -> Forms:
    """The paper's 1D form, the 3D form and the matrix products."""
    layers = [SliceConv(x.shape[1]).requires_grad_(False) for _ in range(3)]
    set_plain(layers[0], True)
    freeze_for_cpu(layers[2])
    n = len(x)
    return {
        "Rearrange + Conv1d": lambda: layers[0](x, n),
        "Conv3d": lambda: layers[1](last, n),
        "three products": lambda: layers[2](last, n),
    }


def denoiser_rates(preset: Preset, compiled: bool) -> dict[str, dict[str, float]]:
    """Whole evaluations: plain, fast, compiled; then fast ones of several windows."""
    n = preset.window
    plain, fast = (Denoiser(preset, NUM_CLASSES).eval().requires_grad_(False) for _ in range(2))
    set_plain(plain, True)
    freeze_for_cpu(to_channels_last(fast))

    def work(model: Callable[..., object], windows: int) -> Callable[[], object]:
        _, *rest = network_input(preset, NUM_CLASSES, windows * n)
        latent, edge = preset.autoencoder.latent_channels, preset.latent_px
        x_t = torch.randn(windows * n, latent, edge, edge)
        return lambda: model(x_t, *rest, n)

    with FlopCounterMode(display=False) as counter:
        work(fast, 1)()
    flop = float(counter.get_total_flops())
    forms = {"plain": work(plain, 1), "fast": work(fast, 1)}
    if compiled:
        forms["compiled"] = work(torch.compile(fast, dynamic=False), 1)
    rates = {"denoiser, one window": rate(forms, flop)}
    for windows in (2, 4):
        found = rate({"fast": work(fast, windows)}, windows * flop)
        rates[f"denoiser, {windows} windows"] = found
    return rates


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
