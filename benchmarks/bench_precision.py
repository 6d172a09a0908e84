#!/usr/bin/env python
"""What a volume depends on beside its request: precision, threads, processor, device.

    python benchmarks/bench_precision.py [--weights FOLDER] [--num-cases 1]

The same held-out phantom, with the same seed and its own middle slice, is sampled in a process of
its own for each variant and compared with the first (float32, one thread, all instructions). An
older processor is played by switching instructions off. Differences are told as a share of the
intensity range and, for CT, in HU; `mean_hu` is their mean over all voxels. The last line is one
JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from machine import about, device_name

SEED = 0
ROOT = Path(__file__).resolve().parents[1]
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
SSE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}


@dataclass(frozen=True)
class Variant:
    """One way to compute the same volumes."""

    name: str
    precision: str = "float32"
    threads: int = 1
    environment: tuple[tuple[str, str], ...] = ()
    device: str = "cpu"


def variants(gpu: bool) -> list[Variant]:
    """The reference first."""
    cpu = [
        Variant("float32"),
        Variant("float32, 2 threads", threads=2),
        Variant("float32, AVX2 only", environment=tuple(AVX2.items())),
        Variant("float32, SSE only", environment=tuple(SSE.items())),
        Variant("bfloat16", "bfloat16"),
        Variant("bfloat16, 2 threads", "bfloat16", threads=2),
        Variant("bfloat16, AVX2 only", "bfloat16", environment=tuple(AVX2.items())),
    ]
    on_gpu = [
        Variant(f"{p} on the GPU", p, device="cuda") for p in ("float32", "bfloat16", "float16")
    ]
    return cpu + (on_gpu if gpu else [])


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "demo_abdomen")
    parser.add_argument("--num-cases", type=int, default=1)
    parser.add_argument("--one", help="internal: sample one variant, given as JSON")
    options = parser.parse_args(args)
    if options.one is not None:
        sample(options.weights, options.num_cases, json.loads(options.one))
        return 0
    rows = compare(options.weights, options.num_cases)
    result = {"bench": "precision", "weights": options.weights.name, "seed": SEED}
    print(json.dumps({**result, "num_cases": options.num_cases, "rows": rows, **about()}))
    return 0


def compare(weights: Path, num_cases: int) -> list[dict[str, Any]]:
    """A row a variant; the differences are to the first."""
    import torch

    from engine.volumes.prepare_config import ABDOMEN_CT

    half_range_hu = (ABDOMEN_CT.clip_hu[1] - ABDOMEN_CT.clip_hu[0]) / 2.0
    rows: list[dict[str, Any]] = []
    first: list[np.ndarray] = []
    print(f"{'variant':28s} {'of range':>10s} {'largest HU':>10s} {'mean HU':>10s} {'s':>6s}")
    for variant in variants(torch.cuda.is_available()):
        images, seconds = run(weights, num_cases, variant)
        first = first or images
        changes = [np.abs(a - b) for a, b in zip(images, first, strict=True)]
        largest = max(float(c.max()) for c in changes)
        row = {
            "variant": variant.name,
            "device": device_name(variant.device),
            "largest_of_range": largest / 2.0,
            "largest_hu": largest * half_range_hu,
            "mean_hu": float(np.mean([c.mean() for c in changes])) * half_range_hu,
            "seconds": round(seconds, 1),
        }
        rows.append(row)
        print(
            f"{variant.name:28s} {row['largest_of_range']:10.2e} {row['largest_hu']:10.3f} "
            f"{row['mean_hu']:10.4f} {seconds:6.1f}",
            flush=True,
        )
    return rows


def run(weights: Path, num_cases: int, variant: Variant) -> tuple[list[np.ndarray], float]:
    """The variant's volumes in [-1, 1], made by a new process, and how long it sampled."""
    with tempfile.TemporaryDirectory(prefix="gem3d-") as folder:
        job: dict[str, Any] = {
            "precision": variant.precision,
            "threads": variant.threads,
            "device": variant.device,
            "out": f"{folder}/volumes.npz",
        }
        command = [sys.executable, __file__, "--weights", str(weights)]
        command += ["--num-cases", str(num_cases), "--one", json.dumps(job)]
        environment = {**os.environ, **dict(variant.environment)}
        environment["OMP_NUM_THREADS"] = str(variant.threads)
        subprocess.run(command, env=environment, check=True)
        with np.load(job["out"]) as saved:
            names = sorted(name for name in saved.files if name != "seconds")
            return [saved[name] for name in names], float(saved["seconds"])


def sample(weights: Path, num_cases: int, job: dict[str, Any]) -> None:
    """Make the volumes of one variant and save them."""
    import torch

    from engine.sampling.sampler import Sampler, SampleRequest, SamplingConfig
    from engine.volumes.phantoms.cohort import HELD_OUT_INDICES, prepared_phantom

    torch.set_num_threads(job["threads"])
    config = SamplingConfig(precision=job["precision"])
    sampler = Sampler.load(weights, config, device=job["device"])
    images: dict[str, Any] = {}
    started = time.perf_counter()
    for index in HELD_OUT_INDICES[:num_cases]:
        case = prepared_phantom(index)
        assert case.image is not None
        middle = case.size_zyx[0] // 2
        request = SampleRequest(
            sample_id=case.case_id,
            seed=SEED,
            mask=case.mask,
            informed=case.image[middle],
            informed_mask=case.mask[middle],
            informed_position=middle / max(1, case.size_zyx[0] - 1),
        )
        images[case.case_id] = sampler.sample(request).image
    images["seconds"] = np.float64(time.perf_counter() - started)
    np.savez(job["out"], **images)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
