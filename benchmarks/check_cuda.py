#!/usr/bin/env python
"""Is what a GPU makes what the CPU makes, whatever its batches, recordings and precision?

    python benchmarks/check_cuda.py [--seconds 90] [--presets gem3d_256,gem3d_512] [--out FILE]

One line a check: its name, the largest and the mean difference as shares of the range, PASS or
FAIL. Random weights of the paper's sizes first: a batch recorded as a CUDA graph against the same
launched one by one, a volume alone against it in company, and how long the host takes for its part
of a batch. Then the demo weights against a CPU, every way of sampling. The first check of a data
type compiles kernels for 7 to 10 s. What does not begin within the time is left out and named. The
exit code is 1 when a check fails. The last line is one JSON object.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.sampling.batching.loop import VolumeLoop
from engine.sampling.networks.evaluator import Evaluator
from engine.sampling.sampler import Sampler, SampleRequest, SamplingConfig
from engine.volumes.phantoms.cohort import HELD_OUT_INDICES, prepared_phantom
from engine.volumes.prepare_config import PRESETS as GRIDS
from engine.volumes.volume import PreparedCase
from models.presets import PRESETS
from speed.material import random_weights, shortened, stretched_phantom

DEMO = Path(__file__).parents[1] / "weights" / "demo_abdomen"
RANGE = 2.0
FLOAT32, HALF = 1e-3, 2e-2  # of the range: what DESIGN allows, and what half precision may add
MEAN_HALF = 2e-3
Image = NDArray[np.float32]


@dataclass
class Checks:
    """What has been found so far."""

    seconds: float = math.inf
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def compare(
        self, name: str, found: Callable[[], Image], expected: Callable[[], Image], limit: float
    ) -> None:
        """One check; what raises has failed."""
        started = time.perf_counter()
        if started - self.began > self.seconds:
            self.left_out.append(name)
            return
        row: dict[str, Any] = {"check": name, "limit": limit, "passed": False}
        try:
            one, other = found(), expected()
            apart = np.abs(one - other) / RANGE
            row["largest"], row["mean"] = float(apart.max()), float(apart.mean())
            fits = row["largest"] <= limit if limit <= FLOAT32 else row["mean"] <= MEAN_HALF
            row["passed"] = bool(np.isfinite(one).all() and fits)
        except Exception as error:
            traceback.print_exc()
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        row["seconds"] = round(time.perf_counter() - started, 2)
        self.rows.append(row)
        apart_told = f"largest {row.get('largest', np.nan):.5f} mean {row.get('mean', np.nan):.6f}"
        verdict = "PASS" if row["passed"] else "FAIL"
        print(f"{name:44s} {apart_told} {row['seconds']:6.2f} s {verdict}", flush=True)


def main(args: Sequence[str]) -> int:
    """Check, print; 0 when all checks pass."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=math.inf, help="no check begins later")
    parser.add_argument("--presets", default="gem3d_256,gem3d_512", help="with random weights")
    parser.add_argument("--out", type=Path, help="also write the JSON object there")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(args)
    checks = Checks(options.seconds)
    print(f"torch {torch.__version__} on {options.device}", flush=True)
    host: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for preset in filter(None, options.presets.split(",")):
            count = 16 if preset == "gem3d_256" else 4
            host[preset] = recorded_and_in_company(
                checks, Path(place) / preset, preset, options.device, count
            )
    against_the_cpu(checks, options.device)
    failed = [row["check"] for row in checks.rows if not row["passed"]]
    result = {
        "bench": "check_cuda", "failed": failed, "left_out": checks.left_out, "host": host,
        "checks": checks.rows,
    }  # fmt: skip
    if options.out is not None:
        options.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 1 if failed else 0


def against_the_cpu(checks: Checks, device: str) -> None:
    """The demo weights, every way of sampling, against a CPU in float32."""
    grid = GRIDS["abdomen_ct"]
    cases = [prepared_phantom(index, grid) for index in HELD_OUT_INDICES[:2]]
    requests = [SampleRequest.own(shortened(case, 40), 0) for case in cases]
    ways: dict[str, dict[str, Any]] = {
        "reuse": {"reuse_features": 2, "num_inference_steps": 6},
        "": {},
        "unipc": {"solver": "unipc", "num_inference_steps": 6},
        "sde": {"solver": "dpmpp_2m_sde", "num_inference_steps": 6},
        "replacement": {"known_slices": "replacement", "num_inference_steps": 6},
        "resampling": {
            "known_slices": "replacement", "num_resamples": 2, "jump_length": 1, "solver": "ddim",
            "num_inference_steps": 4,
        },
    }  # fmt: skip
    for way, settings in ways.items():
        exact = {**settings, "precision": "float32"}
        if time.perf_counter() - checks.began > checks.seconds:
            checks.left_out.append(f"demo {way}")
            continue
        expected = images(load(DEMO, exact, "cpu"), requests[:1])[0]
        for precision, limit in (("float32", FLOAT32), ("auto", HALF)):
            asked = {**settings, "precision": precision}
            checks.compare(
                f"demo {way} {precision}, in company, to CPU",
                lambda asked=asked: images(load(DEMO, asked, device), requests)[0],  # type: ignore[misc]
                lambda image=expected: image,  # type: ignore[misc]
                limit,
            )


def recorded_and_in_company(
    checks: Checks, folder: Path, preset: str, device: str, count: int
) -> dict[str, Any]:
    """Random weights: recorded against launched one by one, alone against in company."""
    random_weights(folder, PRESETS[preset])
    case = stretched_phantom(PRESETS[preset].size_px, 40)
    requests = [request(case, number) for number in range(count)]
    told: dict[str, Any] = {}
    for precision in ("float16", "float32") if preset == "gem3d_256" else ("float16",):
        settings = {"precision": precision, "num_inference_steps": 3}
        limit = FLOAT32 if precision == "float32" else HALF
        kept: dict[str, Any] = {}

        def alone(settings: dict[str, Any] = settings, kept: dict[str, Any] = kept) -> Image:
            kept["sampler"] = load(folder, settings, device)
            kept["alone"] = images(kept["sampler"], requests[-1:])[0]
            return np.asarray(kept["alone"])

        def launched(settings: dict[str, Any] = settings) -> Image:
            sampler = load(folder, settings, device)
            launch_one_by_one(sampler)
            return images(sampler, requests[-1:])[0]

        def in_company(kept: dict[str, Any] = kept) -> Image:
            return images(kept["sampler"], requests)[-1]

        def the_same(kept: dict[str, Any] = kept) -> Image:
            return np.asarray(kept["alone"])

        checks.compare(f"{preset} {precision}, recorded to launched", alone, launched, limit)
        checks.compare(f"{preset} {precision}, in company to alone", in_company, the_same, limit)
        if "sampler" in kept and not checks.left_out:
            told[precision] = host_times(kept["sampler"], requests)
            print(f"  {told[precision]}", flush=True)
    return told


def load(folder: Path, settings: dict[str, Any], device: str) -> Sampler:
    """A sampler with these settings."""
    return Sampler.load(folder, SamplingConfig(**settings), device)


def launch_one_by_one(sampler: Sampler) -> None:
    """No padding and no recordings from now on."""
    model = sampler.model
    model.sizes = ()
    keeps = model.config.reuse_features > 1
    model._evaluator = Evaluator(model._evaluated, (), 0, None, keeps)


def images(sampler: Sampler, requests: list[SampleRequest]) -> list[Image]:
    """Volumes made together, in the order of the requests."""
    made = {o.sample_id: o.result().image for o in sampler.sample_many(requests)}
    return [made[each.sample_id] for each in requests]


def request(case: PreparedCase, number: int) -> SampleRequest:
    """Volume `number` of a case, with a mask of its own."""
    assert case.image is not None
    z = len(case.image) // 2
    mask = np.roll(case.mask, 3 * number, axis=1)
    return SampleRequest(f"volume{number}", 0, mask, case.image[z], 0.5, case.mask[z])


def host_times(sampler: Sampler, requests: list[SampleRequest]) -> dict[str, float]:
    """Milliseconds of the host: for a batch, for the beginning of a volume; seconds of it all."""
    seconds: dict[str, list[float]] = {"take": [], "turn": [], "_look": []}
    real = {name: getattr(VolumeLoop, name) for name in seconds}

    def timed(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return real[name](*args, **options)
            finally:
                seconds[name].append(time.perf_counter() - started)

        return call

    try:
        for name in seconds:
            setattr(VolumeLoop, name, timed(name))
        started = time.perf_counter()
        made = [outcome.result() for outcome in sampler.sample_many(requests)]
        wall = time.perf_counter() - started
    finally:
        for name, method in real.items():
            setattr(VolumeLoop, name, method)
    waited = sum(seconds["_look"])
    turns = len(seconds["turn"])
    return {
        "batches": turns,
        "ms_a_batch": round(1e3 * (sum(seconds["turn"]) - waited) / turns, 2),
        "ms_a_batch_median": round(1e3 * float(np.median(seconds["turn"])), 2),
        "ms_waited_a_batch": round(1e3 * waited / turns, 2),
        "ms_a_volume_begun": round(1e3 * float(np.mean(seconds["take"])), 2),
        "s_a_volume": round(wall / len(made), 4),
        "denoise_s": round(sum(v.timings_s["denoise"] for v in made) / len(made), 4),
        "encode_s": round(sum(v.timings_s["encode"] for v in made) / len(made), 4),
        "decode_s": round(sum(v.timings_s["decode"] for v in made) / len(made), 4),
        "memory_mb": round(torch.cuda.max_memory_allocated() / 2**20)
        if torch.cuda.is_available()
        else 0,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
