"""The engine beside the reference profile: speed, and quality where the weights have any."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.evaluation.continuity import seam_ratio
from engine.evaluation.fidelity import ms_ssim
from engine.sampling.propagation.windows import plan_windows
from engine.sampling.sampler import SampledVolume, Sampler, SampleRequest, SamplingConfig
from engine.volumes.volume import PreparedCase
from speed.material import SEED, shortened


@dataclass(frozen=True)
class Measured:
    """Means over the cases.

    Attributes:
        s_per_volume: wall seconds.
        s_per_evaluation: of denoising, a window and evaluation of the network.
        ms_ssim: to the real volumes; None with random weights.
        seam_ratio: likewise.
    """

    s_per_volume: float
    s_per_evaluation: float
    ms_ssim: float | None
    seam_ratio: float | None


def run(sampler: Sampler, cases: Sequence[PreparedCase]) -> tuple[list[SampledVolume], list[float]]:
    """Sample the cases one by one; volumes and seconds of each."""
    volumes, walls = [], []
    for case in cases:
        started = time.perf_counter()
        volumes.append(sampler.sample(SampleRequest.own(case, SEED)))
        walls.append(time.perf_counter() - started)
        print(f"{sampler.config.profile} {case.case_id}: {walls[-1]:.1f} s", flush=True)
    return volumes, walls


def measured(
    cases: Sequence[PreparedCase],
    volumes: Sequence[SampledVolume],
    walls: Sequence[float],
    num_evaluations: int,
    *,
    quality: bool,
) -> Measured:
    """Means over the cases; quality only where the weights have any.

    Args:
        cases: that were sampled.
        volumes: of them.
        walls: seconds of each.
        num_evaluations: of the network, a window.
        quality: whether the weights have any.
    """
    seconds = sum(walls) / len(walls)
    windows = sum(volume.num_windows for volume in volumes)
    denoising = sum(volume.timings_s["denoise"] for volume in volumes)
    evaluation = denoising / (windows * num_evaluations)
    if not quality:
        return Measured(seconds, evaluation, None, None)
    pairs = [(v, c, c.image) for v, c in zip(volumes, cases, strict=True) if c.image is not None]
    similar = [ms_ssim(v.image, image, 2.0) for v, _, image in pairs]
    seams = [seam_ratio(v.image, v.joins, c.mask > 0) for v, c, _ in pairs]
    return Measured(seconds, evaluation, round(_mean(similar), 4), round(_mean(seams), 4))


def scaled_reference(folder: Path, case: PreparedCase, device: str, steps: int) -> Measured:
    """A reference volume's times, from one window of `steps` steps."""
    config = Sampler.load(folder, SamplingConfig(profile="reference"), device).config
    assert config.num_inference_steps is not None
    few = config.model_copy(update={"profile": "engine", "num_inference_steps": steps})
    sampler = Sampler.load(folder, few, device)
    window = sampler.manifest.preset.window
    request = SampleRequest.own(shortened(case, window), SEED)
    sampler.sample(request)  # warms up
    spent = sampler.sample(request).timings_s
    num_slices, length = len(case.mask), len(request.mask)
    windows = num_windows(num_slices, window, config.overlap_slices)
    slices = (spent["encode"] + spent["decode"]) * num_slices / length
    evaluation = spent["denoise"] / steps
    whole = slices + evaluation * config.num_inference_steps * windows
    return Measured(whole, evaluation, None, None)


def num_windows(num_slices: int, window: int, overlap: int) -> int:
    """Windows of a volume whose first one lies around its middle slice, as the sampler puts it.

    >>> num_windows(70, 16, 1)
    5
    """
    middle = round(num_slices // 2 / max(num_slices - 1, 1) * (num_slices - 1))
    return len(plan_windows(num_slices, window, overlap, middle - window // 2).windows)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
