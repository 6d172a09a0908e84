#!/usr/bin/env python
"""Quality against denoising steps for every solver: a table, a plot, JSON at the end.

    python benchmarks/bench_steps.py [--weights FOLDER] [--solvers ...] [--steps ...] [--out FOLDER]

Held-out phantoms, informed by their own middle slice, each sampled with every combination of what
is listed: solver, steps, how known slices are shown, feature reuse. `ms_ssim`, `seam_ratio` and
`roughness` are means over the cases, `organ_error` is the mean absolute error of organ means in HU
(CT) over organs and cases. One seed everywhere. The last line is one JSON object with all rows.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

from engine.evaluation.continuity import roughness, seam_ratio
from engine.evaluation.fidelity import class_means, mean_errors, ms_ssim
from engine.sampling.sampler import Sampler, SampleRequest, SamplingConfig
from engine.sampling.solvers.methods import METHODS
from engine.volumes.phantoms.cohort import HELD_OUT_INDICES, prepared_phantom
from engine.volumes.volume import PreparedCase
from models.weights.folder import read_manifest

mpl.use("agg")
SEED = 0
DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "demo_abdomen"
STEPS = (1, 2, 3, 4, 5, 8, 12, 20)
COLUMNS = ("ms_ssim", "organ_error", "seam_ratio", "roughness", "s_per_volume")


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    options = parse(args)
    torch.set_num_threads(options.threads)
    manifest = read_manifest(options.weights)
    cases = [prepared_phantom(index) for index in HELD_OUT_INDICES[: options.num_cases]]
    print(f"{'variant':44s} {'steps':>5s} " + " ".join(f"{name:>12s}" for name in COLUMNS))
    rows = []
    for solver, steps, known, reuse in itertools.product(
        options.solvers, options.steps, options.known_slices, options.reuse_features
    ):
        config = SamplingConfig(
            solver=solver, num_inference_steps=steps, known_slices=known, reuse_features=reuse
        )
        sampler = Sampler.load(options.weights, config)
        row = {"solver": solver, "steps": steps, "known_slices": known, "reuse_features": reuse}
        rows.append({**row, **measure(sampler, cases)})
        print(f"{variant(rows[-1]):44s} {steps:5d} " + " ".join(shown(rows[-1])), flush=True)
    if options.out is not None:
        write(options.out, rows)
    result = {"bench": "steps", "weights": options.weights.name, "preset": manifest.preset.name}
    cases_seen = [case.case_id for case in cases]
    print(json.dumps({**result, "cases": cases_seen, "seed": SEED, "rows": rows}))
    return 0


def parse(args: Sequence[str]) -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    solvers = [name for name, method in METHODS.items() if "cosine" in method.schedules]
    add = parser.add_argument
    add("--weights", type=Path, default=DEFAULT_WEIGHTS)
    add("--solvers", nargs="+", default=solvers, choices=tuple(METHODS))
    add("--steps", nargs="+", type=int, default=list(STEPS))
    add("--known-slices", nargs="+", default=["auto"])
    add("--reuse-features", nargs="+", type=int, default=[1])
    add("--num-cases", type=int, default=len(HELD_OUT_INDICES))
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--out", type=Path, help="folder for steps.csv, steps.md and steps.png")
    return parser.parse_args(args)


def measure(sampler: Sampler, cases: Sequence[PreparedCase]) -> dict[str, float]:
    """Means over the cases."""
    found = [_measure_case(sampler, case) for case in cases]
    return {name: round(float(np.mean([f[name] for f in found])), 4) for name in COLUMNS}


def _measure_case(sampler: Sampler, case: PreparedCase) -> dict[str, float]:
    assert case.image is not None
    started = time.perf_counter()
    volume = sampler.sample(SampleRequest.own(case, SEED))
    seconds = time.perf_counter() - started
    body = case.mask > 0
    organs = case.class_names[:-1]  # the last class is the body contour
    generated, real = (
        class_means(case.intensity.to_source(image), case.mask, case.class_names)
        for image in (volume.image, case.image)
    )
    errors = [abs(e) for name, e in mean_errors(generated, real).items() if name in organs]
    return {
        "ms_ssim": ms_ssim(volume.image, case.image, 2.0),
        "organ_error": float(np.mean(errors)),
        "seam_ratio": seam_ratio(volume.image, volume.joins, body),
        "roughness": roughness(volume.image, body) / roughness(case.image, body),
        "s_per_volume": seconds,
    }


def variant(row: dict[str, Any]) -> str:
    """What a row has beside its number of steps."""
    parts = [row["solver"]]
    parts += [row["known_slices"]] if row["known_slices"] != "auto" else []
    parts += [f"reuse {row['reuse_features']}"] if row["reuse_features"] > 1 else []
    return ", ".join(parts)


def shown(row: dict[str, Any]) -> list[str]:
    """A row's numbers for the terminal."""
    return [f"{row[name]:12.4f}" for name in COLUMNS]


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The table for programs and for people, and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("solver", "steps", "known_slices", "reuse_features", *COLUMNS)
    lines = [",".join(names)] + [",".join(str(row[name]) for name in names) for row in rows]
    (folder / "steps.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    head = ["| variant | steps | " + " | ".join(COLUMNS) + " |", "| --- " * 7 + "|"]
    body = [
        f"| {variant(row)} | {row['steps']} | " + " | ".join(s.strip() for s in shown(row)) + " |"
        for row in rows
    ]
    (folder / "steps.md").write_text("\n".join(head + body) + "\n", encoding="utf-8")
    plot(folder / "steps.png", rows)


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """One curve a variant, one panel a measure."""
    from matplotlib import pyplot as plt

    titles = {
        "ms_ssim": "MS-SSIM to the real volume (higher is better)",
        "organ_error": "mean error of organ means (HU, lower is better)",
        "seam_ratio": "seam ratio (1: joins cannot be seen)",
        "roughness": "roughness along z, real volume = 1",
    }
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    for axis, (name, title) in zip(axes.flat, titles.items(), strict=True):
        for label in dict.fromkeys(variant(row) for row in rows):
            curve = sorted((row["steps"], row[name]) for row in rows if variant(row) == label)
            axis.plot(*zip(*curve, strict=True), marker="o", markersize=3, label=label)
        axis.set(title=title, xlabel="denoising steps a window", xscale="log")
        ticks = sorted({row["steps"] for row in rows})
        axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
