#!/usr/bin/env python
"""The engine against the reference profile in one run: speed, quality, where the time goes.

    python benchmarks/bench_sampling.py [--preset gem3d_256] [--weights FOLDER] [--quick]
    python benchmarks/bench_sampling.py --device cuda --preset gem3d_512 gem3d_256 \
        --setting one --setting "many volumes=8 precision=float16 profile=true"

With random weights of a preset (quality means nothing then) or with real ones, on phantoms that the
demo weights have never seen, informed by their own middle slice. The reference is DDIM with 200
steps and eta 1 in float32, one window at a time, in the layers' plain forms. With --weights it runs
in full, so that its quality is known; otherwise a few of its steps are timed and scaled. The last
line is one JSON object. `speedup` compares a few steps with 200; `speedup_per_evaluation` is that
of one window through the network, `speedup_at_equal_steps` of a volume with 200 on both sides.

With --setting nothing is compared with the reference: each setting is a row, and its volumes are
sampled together, from a phantom stretched to --num-slices planes that all differ, also from those
of the volumes beside it (but with replicas=true, where all volumes share one mask). Seconds of
encode, denoise and decode are the sampler's own; they may overlap. Shares of the peak hold the
plain networks' arithmetic against a matrix product in the same precision and run, so that work
saved counts as speed. `first_s` is the first short batch, with what compiling and capturing cost.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.runs.making.volume_maker import peak_memory_mb as process_peak_memory_mb
from engine.sampling.sampler import SampledVolume, Sampler, SampleRequest, SamplingConfig
from engine.volumes.phantoms.cohort import HELD_OUT_INDICES, prepared_phantom
from engine.volumes.prepare_config import PRESETS as GRIDS
from engine.volumes.volume import PreparedCase
from machine import about_device, device_name, matrix_peak_gflops
from models.presets import PRESETS
from models.weights.folder import Manifest, read_manifest
from speed.arithmetic import Arithmetic
from speed.material import GRID_OF_SIZE, SEED, random_weights, shortened, stretched_phantom
from speed.reference import Measured, measured, num_windows, run, scaled_reference
from speed.settings import PARTS, Bench, Setting, table

REFERENCE_STEPS = 200
_NUM_SLICES = 155  # of a CT of the abdomen on the paper's grid


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    options = parse(args)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        result = rows(options) if options.setting else compare(Path(place), options)
    text = json.dumps(result)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return int(any("error" in row for row in result.get("rows", ())))


def parse(args: Sequence[str]) -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--preset", nargs="+", default=["gem3d_256"], choices=sorted(PRESETS))
    add("--weights", type=Path, help="a weights folder; then quality counts as well")
    add("--device", choices=("cpu", "cuda"), help="default: the GPU, where there is one")
    add("--quick", action="store_true", help="one case, reference scaled from two steps")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--num-slices", type=int, help="stretch the phantom to this many")
    add(
        "--setting",
        action="append",
        type=Setting.parse,
        help="LABEL [volumes=N] [replicas=true] [profile=true] [FIELD=VALUE]",
    )
    add("--steps", type=int, help="of the engine; default: what the weights recommend")
    add("--solver", help="of the engine; default: what the weights recommend")
    add("--precision", default="auto")
    add("--compile", action="store_true", help="torch.compile the engine's denoiser")
    add("--max-windows", type=int, help="windows a batch of the engine")
    add("--reference-steps", type=int, default=4, help="timed and scaled, with random weights")
    add("--out", type=Path, help="also write the JSON object there")
    options = parser.parse_args(args)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if len(options.preset) > 1 and (options.weights or not options.setting):
        parser.error("several presets need --setting, and no --weights")
    return options


def rows(options: Namespace) -> dict[str, Any]:
    """A row a preset and setting, printed as it is measured, and a table last."""
    found: list[dict[str, Any]] = []
    for name in options.preset:
        started, length = time.perf_counter(), options.num_slices or _NUM_SLICES
        bench = Bench.of(PRESETS[name], options.weights, length, options.device)
        print(f"{name}: case and arithmetic in {time.perf_counter() - started:.1f} s", flush=True)
        found += bench.rows(options.setting)
    print(table(found), flush=True)
    return {"bench": "sampling", **about_device(options.device), "seed": SEED, "rows": found}


def compare(place: Path, options: Namespace) -> dict[str, Any]:
    """The engine beside the reference; everything that the last line says."""
    folder = options.weights or random_weights(place, PRESETS[options.preset[0]])
    manifest = read_manifest(folder)
    result = bench(folder, manifest, make_cases(manifest, options), options)
    for name, value in result.items():
        print(f"{name:26s} {value}")
    return result


def make_cases(manifest: Manifest, options: Namespace) -> list[PreparedCase]:
    """Held-out phantoms on the model's grid."""
    if options.num_slices is not None:
        return [stretched_phantom(manifest.preset.size_px, options.num_slices)]
    grid = GRIDS[GRID_OF_SIZE[manifest.preset.size_px]]
    indices = HELD_OUT_INDICES[: 1 if options.quick or not options.weights else None]
    return [prepared_phantom(index, grid) for index in indices]


def bench(
    folder: Path, manifest: Manifest, cases: list[PreparedCase], options: Namespace
) -> dict[str, Any]:
    """Sample the cases with the engine and with the reference."""
    device = options.device
    settings = SamplingConfig(
        solver=options.solver,
        num_inference_steps=options.steps,
        precision=options.precision,
        compile=options.compile,
        max_windows=options.max_windows,
    )
    engine = Sampler.load(folder, settings, device)
    peak = matrix_peak_gflops(engine.model.dtype, device)
    engine.sample(SampleRequest.own(shortened(cases[0], manifest.preset.window), SEED))  # warm-up
    volumes, walls = run(engine, cases)
    peak = max(peak, matrix_peak_gflops(engine.model.dtype, device))
    memory = peak_memory_mb(device)
    evaluations = engine.solver.num_evaluations
    found = measured(cases, volumes, walls, evaluations, quality=bool(options.weights))
    full = bool(options.weights) and not options.quick
    if full:
        slow = Sampler.load(folder, SamplingConfig(profile="reference"), device)
        slow_runs = run(slow, cases)
        reference = measured(cases, *slow_runs, slow.solver.num_evaluations, quality=True)
    else:
        reference = scaled_reference(folder, cases[0], device, options.reference_steps)
    slices = [len(case.mask) for case in cases]
    return {
        "bench": "sampling",
        "device": device_name(device),
        "threads": options.threads,
        "preset": manifest.preset.name,
        "weights": options.weights.name if options.weights else "random",
        "num_slices": slices,
        "precision": str(engine.model.dtype).removeprefix("torch."),
        "solver": engine.config.solver,
        "num_inference_steps": engine.config.num_inference_steps,
        "overlap": engine.config.overlap,
        "peak_gflops": round(peak, 1),
        "reference_scaled_from_steps": None if full else options.reference_steps,
        "peak_memory_mb": memory,
        "seed": SEED,
        **_compared(found, reference, at_equal_steps(found, reference, engine, slices)),
        **_shares(Arithmetic.of(manifest), slices, volumes, sum(walls), evaluations, peak),
    }


def _compared(found: Measured, reference: Measured, equal_steps: float) -> dict[str, Any]:
    """The engine beside the reference."""
    per_evaluation = reference.s_per_evaluation / found.s_per_evaluation
    return {
        "reference_s_per_volume": round(reference.s_per_volume, 2),
        "engine_s_per_volume": round(found.s_per_volume, 3),
        "speedup": round(reference.s_per_volume / found.s_per_volume, 2),
        "speedup_per_evaluation": round(per_evaluation, 3),
        "speedup_at_equal_steps": round(equal_steps, 3),
        "ms_ssim_reference": reference.ms_ssim,
        "ms_ssim_engine": found.ms_ssim,
        "seam_ratio_reference": reference.seam_ratio,
        "seam_ratio_engine": found.seam_ratio,
    }


def _shares(
    arithmetic: Arithmetic,
    slices: Sequence[int],
    volumes: Sequence[SampledVolume],
    wall: float,
    evaluations: int,
    peak: float,
) -> dict[str, Any]:
    """Arithmetic and time of the parts of sampling; `peak` in GFLOP/s."""
    total = {k: sum(v.timings_s[k] for v in volumes) for k in PARTS}
    tflop = arithmetic.denoise(sum(v.num_windows for v in volumes) * evaluations)
    whole = tflop + sum(arithmetic.encode(n) + arithmetic.decode(n) for n in slices)
    return {
        "params_m": round(arithmetic.params, 2),
        "gflop_per_window_step": round(1e3 * arithmetic.window_step, 2),
        "mfu": round(1e3 * tflop / total["denoise"] / peak, 3),
        "mfu_volume": round(1e3 * whole / wall / peak, 3),
        **{f"share_{part}": round(total[part] / wall, 4) for part in PARTS},
        "share_other": round(1.0 - sum(total.values()) / wall, 4),
    }


def at_equal_steps(
    found: Measured, reference: Measured, engine: Sampler, slices: Sequence[int]
) -> float:
    """The reference's time over that of the engine with as many evaluations of the network."""
    window, overlap = engine.manifest.preset.window, engine.config.overlap_slices
    windows = sum(num_windows(n, window, overlap) for n in slices) / len(slices)
    more = REFERENCE_STEPS - engine.solver.num_evaluations
    return reference.s_per_volume / (found.s_per_volume + more * windows * found.s_per_evaluation)


def peak_memory_mb(device: str) -> float:
    """Of the GPU, or of this process."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return process_peak_memory_mb()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
