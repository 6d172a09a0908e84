#!/usr/bin/env python
"""The engine against the reference profile in one run: speed, quality, where the time goes.

    python benchmarks/bench_sampling.py [--preset gem3d_256] [--weights FOLDER] [--quick]

With random weights of a preset (quality means nothing then) or with real ones, on phantoms that the
demo weights have never seen, informed by their own middle slice. The reference is DDIM with 200
steps and eta 1 in float32, one window at a time, in the layers' plain forms. With --weights it runs
in full, so that its quality is known; otherwise a few of its steps are timed and scaled. The last
line is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.evaluation.continuity import seam_ratio
from engine.evaluation.fidelity import ms_ssim
from engine.runs.making.volume_maker import peak_memory_mb as process_peak_memory_mb
from engine.sampling.diffusion.schedule import ScheduleConfig
from engine.sampling.propagation.volume_state import VolumeState
from engine.sampling.propagation.windows import plan_windows
from engine.sampling.sampler import SampledVolume, Sampler, SampleRequest, SamplingConfig
from engine.volumes.phantoms.cohort import HELD_OUT_INDICES, prepared_phantom
from engine.volumes.prepare_config import PRESETS as GRIDS
from engine.volumes.volume import PreparedCase
from machine import device_name, matrix_peak_gflops
from models.autoencoder import Autoencoder
from models.denoiser import Denoiser
from models.presets import PRESETS, Preset
from models.weights import (
    AUTOENCODER,
    DENOISER,
    Manifest,
    read_manifest,
    save_weights,
    write_manifest,
)
from network_input import network_input

SEED = 0
GRID_OF_SIZE = {128: "abdomen_ct", 256: "abdomen_ct_256", 512: "abdomen_ct_512"}


@dataclass(frozen=True)
class Measured:
    """Means over the cases."""

    s_per_volume: float
    ms_ssim: float | None
    seam_ratio: float | None


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    options = parse(args)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = options.weights or random_weights(Path(place), PRESETS[options.preset])
        manifest = read_manifest(folder)
        cases = make_cases(manifest, options)
        result = bench(folder, manifest, cases, options)
    for name, value in result.items():
        print(f"{name:26s} {value}")
    text = json.dumps(result)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def parse(args: Sequence[str]) -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--preset", default="gem3d_256", choices=sorted(PRESETS), help="with random weights")
    add("--weights", type=Path, help="a weights folder; then quality counts as well")
    add("--quick", action="store_true", help="one case, reference scaled from two steps")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--num-slices", type=int, help="cut or repeat the phantom's slices to this many")
    add("--steps", type=int, help="of the engine; default: what the weights recommend")
    add("--solver", help="of the engine; default: what the weights recommend")
    add("--precision", default="auto")
    add("--compile", action="store_true", help="torch.compile the engine's denoiser")
    add("--max-windows", type=int, help="windows a batch of the engine")
    add("--reference-steps", type=int, default=4, help="timed and scaled, with random weights")
    add("--out", type=Path, help="also write the JSON object there")
    return parser.parse_args(args)


def random_weights(folder: Path, preset: Preset) -> Path:
    """A weights folder as training would leave it, from a fixed seed."""
    torch.manual_seed(SEED)
    names = (*GRIDS["abdomen_ct"].class_names, "body")
    manifest = Manifest(
        preset=preset,
        num_classes=len(names),
        class_names=names,
        schedule=ScheduleConfig(zero_terminal_snr=True, prediction_type="v").model_dump(),
        spacing_mm_yx=GRIDS[GRID_OF_SIZE[preset.size_px]].spacing_mm_yx,
        modality="ct",
    )
    denoiser = Denoiser(preset, len(names))
    with torch.no_grad():  # layers that are zero at birth would be skipped by nothing, but say so
        for parameter in denoiser.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    save_weights(folder / AUTOENCODER, Autoencoder(preset.autoencoder).state_dict())
    save_weights(folder / DENOISER, denoiser.state_dict())
    write_manifest(folder, manifest)
    return folder


def make_cases(manifest: Manifest, options: Namespace) -> list[PreparedCase]:
    """Held-out phantoms on the model's grid."""
    grid = GRIDS[GRID_OF_SIZE[manifest.preset.size_px]]
    indices = HELD_OUT_INDICES[: 1 if options.quick or not options.weights else None]
    cases = [prepared_phantom(index, grid) for index in indices]
    if options.num_slices is None:
        return cases
    rows = np.arange(options.num_slices) % len(cases[0].mask)
    case = cases[0]
    assert case.image is not None
    return [PreparedCase(**{**vars(case), "image": case.image[rows], "mask": case.mask[rows]})]


def bench(
    folder: Path, manifest: Manifest, cases: list[PreparedCase], options: Namespace
) -> dict[str, Any]:
    """Everything that the last line says."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
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
    found = measured(cases, volumes, walls, bool(options.weights))
    slow = Sampler.load(folder, SamplingConfig(profile="reference"), device)
    full = bool(options.weights) and not options.quick
    if full:
        reference = measured(cases, *run(slow, cases), True)
    else:
        reference = Measured(scaled_reference_s(slow, cases[0], options), None, None)
    total = {k: sum(v.timings_s[k] for v in volumes) for k in ("encode", "denoise", "decode")}
    gflop = gflop_per_window_step(manifest)
    evaluations = sum(v.num_windows for v in volumes) * engine.solver.num_evaluations
    wall = sum(walls)
    return {
        "bench": "sampling",
        "device": device_name(device),
        "threads": options.threads,
        "preset": manifest.preset.name,
        "weights": options.weights.name if options.weights else "random",
        "num_slices": [len(case.mask) for case in cases],
        "precision": str(engine.model.dtype).removeprefix("torch."),
        "params_m": round(sum(p.numel() for p in engine.model.denoiser.parameters()) / 1e6, 2),
        "solver": engine.config.solver,
        "num_inference_steps": engine.config.num_inference_steps,
        "overlap": engine.config.overlap,
        "gflop_per_window_step": round(gflop, 2),
        "peak_gflops": round(peak, 1),
        "mfu": round(gflop * evaluations / total["denoise"] / peak, 3),
        "reference_s_per_volume": round(reference.s_per_volume, 2),
        "reference_scaled_from_steps": None if full else options.reference_steps,
        "engine_s_per_volume": round(found.s_per_volume, 3),
        "speedup": round(reference.s_per_volume / found.s_per_volume, 2),
        "ms_ssim_reference": reference.ms_ssim,
        "ms_ssim_engine": found.ms_ssim,
        "seam_ratio_reference": reference.seam_ratio,
        "seam_ratio_engine": found.seam_ratio,
        "peak_memory_mb": memory,
        "share_denoise": round(total["denoise"] / wall, 4),
        "share_decode": round(total["decode"] / wall, 4),
        "share_encode": round(total["encode"] / wall, 4),
        "share_other": round(1.0 - sum(total.values()) / wall, 4),
        "seed": SEED,
    }


def run(sampler: Sampler, cases: list[PreparedCase]) -> tuple[list[SampledVolume], list[float]]:
    """Sample the cases one by one; volumes and seconds of each."""
    volumes, walls = [], []
    for case in cases:
        started = time.perf_counter()
        volumes.append(sampler.sample(SampleRequest.own(case, SEED)))
        walls.append(time.perf_counter() - started)
        print(f"{sampler.config.profile} {case.case_id}: {walls[-1]:.1f} s", flush=True)
    return volumes, walls


def measured(
    cases: list[PreparedCase], volumes: list[SampledVolume], walls: list[float], quality: bool
) -> Measured:
    """Means over the cases; quality only where the weights have any."""
    seconds = sum(walls) / len(walls)
    if not quality:
        return Measured(seconds, None, None)
    pairs = [(v, c, c.image) for v, c in zip(volumes, cases, strict=True) if c.image is not None]
    similar = [ms_ssim(v.image, image, 2.0) for v, _, image in pairs]
    seams = [seam_ratio(v.image, v.joins, c.mask > 0) for v, c, _ in pairs]
    return Measured(seconds, round(_mean(similar), 4), round(_mean(seams), 4))


def scaled_reference_s(sampler: Sampler, case: PreparedCase, options: Namespace) -> float:
    """Seconds of a reference volume, from a few timed steps and a few decoded slices."""
    request, preset = SampleRequest.own(case, SEED), sampler.manifest.preset
    num_slices, model = len(case.mask), sampler.model
    plan = plan_windows(num_slices, preset.window, sampler.config.overlap_slices, num_slices // 2)
    started = time.perf_counter()
    conditions = model.encode(request)
    encoding = time.perf_counter() - started
    shape = (num_slices, preset.autoencoder.latent_channels, preset.latent_px, preset.latent_px)
    state = VolumeState(0, "scaled", SEED, shape, sampler.denoising, device=sampler.device)
    times = []
    for evaluation in range(options.reference_steps + 1):  # the first one warms up
        started = time.perf_counter()
        item = state.show(plan.first, evaluation)
        state.accept(plan.first, evaluation, model.denoise([item], [conditions])[0])
        times.append(time.perf_counter() - started)
        print(f"reference step {evaluation}: {times[-1]:.2f} s", flush=True)
    few = min(8, num_slices)
    started = time.perf_counter()
    model.decode(torch.zeros(few, *shape[1:], device=sampler.device), few)
    decoding = (time.perf_counter() - started) * num_slices / few
    steps = len(plan.windows) * sampler.solver.num_evaluations
    return encoding + _mean(times[1:]) * steps + decoding


def gflop_per_window_step(manifest: Manifest) -> float:
    """Multiplications and additions of one evaluation of a whole window, in 10^9."""
    preset, n = manifest.preset, manifest.preset.window
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        denoiser = Denoiser(preset, manifest.num_classes)
        denoiser(*network_input(preset, manifest.num_classes, n), n)
    return float(counter.get_total_flops()) / 1e9


def shortened(case: PreparedCase, num_slices: int) -> PreparedCase:
    """The case's first slices, for a warm-up."""
    assert case.image is not None
    cut = {"image": case.image[:num_slices], "mask": case.mask[:num_slices]}
    return PreparedCase(**{**vars(case), **cut})


def peak_memory_mb(device: str) -> float:
    """Of the GPU, or of this process."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return process_peak_memory_mb()


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
