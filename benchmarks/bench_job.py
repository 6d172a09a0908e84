#!/usr/bin/env python
"""The whole job against the sampler alone, on one machine in one run, with random weights.

    python benchmarks/bench_job.py [--preset demo gem3d_256 gem3d_512] [--volumes N ...] [--quick]

The job is `resample`: a plan, Ray with a worker a GPU (or one), and for each volume reading,
sampling, measuring, going back to the native grid, compressing, hashing, writing and the commit.
The sampler alone makes as many volumes of the same case in a process of its own, and nothing is
done with them. Planes of the case all differ; its native grid has as many voxels as the model's.

`share` is the sampler's time a volume over the job's in steady state: from the commit that ends the
first batch to the last one. `whole_s` counts from the start of the job to its report, with Ray's
start and the model's loading. `stages_s` are means of the commit records; they overlap. JSON last.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.parallel.own_process import in_own_process
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import iter_plan
from engine.runs.record.records import Commit
from engine.sampling.config import SamplingConfig
from models.presets import PRESETS
from speed.job_data import alone, device_facts, prepare

_VOLUMES = {128: 64, 256: 48, 512: 16}


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    options = parse(args)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        place = options.place or Path(temporary)
        if options.prepare_only:
            for name in options.preset:
                prepare(place / name, name, options.num_slices)
            return 0
        for index, name in enumerate(options.preset):
            rows.append(measure(place / name, name, index, options))
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows), flush=True)
    found = {"bench": "job", **in_own_process(device_facts), "quick": options.quick, "rows": rows}
    text = json.dumps(found)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def parse(args: Sequence[str]) -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--preset", nargs="+", default=["demo", "gem3d_256", "gem3d_512"], choices=sorted(PRESETS))
    add("--volumes", nargs="+", type=int, help="of each preset; default by size: 64, 48, 16")
    add("--num-slices", type=int, default=155)
    add("--steps", type=int, default=5)
    add("--precision", default="auto")
    add("--rows-at-once", type=int, help="volumes in the worker at once; default: the job's own")
    add("--quick", action="store_true", help="the demo's preset, 4 volumes of 20 slices, one step")
    add("--place", type=Path, help="for weights, data and runs, and kept; else a temporary folder")
    add("--prepare-only", action="store_true", help="with --place: make weights and data")
    add("--out", type=Path, help="also write the JSON object there")
    options = parser.parse_args(args)
    if options.quick:
        options.preset, options.volumes, options.num_slices, options.steps = ["demo"], [4], 20, 1
    if options.volumes and len(options.volumes) != len(options.preset):
        parser.error("--volumes takes a number for each preset")
    return options


def measure(place: Path, name: str, index: int, options: Namespace) -> dict[str, Any]:
    """The sampler alone, then the job, of one preset."""
    preset = PRESETS[name]
    volumes = options.volumes[index] if options.volumes else _VOLUMES[preset.size_px]
    started = time.perf_counter()
    if not (place / "data").is_dir():
        in_own_process(prepare, place, name, options.num_slices)
    prepared = time.perf_counter() - started
    sampling = SamplingConfig(num_inference_steps=options.steps, precision=options.precision)
    plain = in_own_process(alone, place / "data", place / "weights", sampling, volumes)
    config = ResampleConfig(
        data=place / "data",
        weights=place / "weights",
        out=place / "run",
        informed=("own",),
        replicas=volumes,
        rows_at_once=options.rows_at_once,
        num_pictured=0,
        sampling=sampling,
    )
    started, clock = time.perf_counter(), time.time()
    outcome = resample(config)
    whole = time.perf_counter() - started
    assert outcome.summary.failed == 0, "a volume failed"
    folder = RunFolder(config.out)
    commits = _commits(folder)
    held = min(options.rows_at_once or plain["windows"], volumes // 2)
    steady = steady_s([commit.committed_at for commit in commits], held)
    (first,) = ledger.read_attempts(folder, commits[0].sample_id)
    return {
        "preset": name,
        "volumes": volumes,
        "num_slices": options.num_slices,
        "sampler_s_per_volume": round(plain["s_per_volume"], 4),
        "job_s_per_volume": round(steady, 4),
        "share": round(plain["s_per_volume"] / steady, 4),
        "whole_s": round(whole, 2),
        "first_attempt_after_s": round(first.started_at - clock, 2),
        "first_commit_after_s": round(commits[0].committed_at - clock, 2),
        "after_last_commit_s": round(clock + whole - commits[-1].committed_at, 2),
        "prepare_s": round(prepared, 2),
        "stages_s": stages(commits),
        "sampler": plain,
    }


def steady_s(committed_at: Sequence[float], held: int) -> float:
    """Seconds a volume from the end of the first batch to the end.

    Args:
        committed_at: in order.
        held: volumes of the first batch.

    >>> steady_s([10.0, 10.1, 12.0, 12.1, 14.0, 14.1], 2)
    1.0
    """
    held = max(1, min(held, len(committed_at) - 1))
    return (committed_at[-1] - committed_at[held - 1]) / (len(committed_at) - held)


def stages(commits: Sequence[Commit]) -> dict[str, float]:
    """Mean seconds of each stage."""
    names = sorted({name for commit in commits for name in commit.timings_s})
    count = len(commits)
    return {n: round(sum(c.timings_s.get(n, 0.0) for c in commits) / count, 4) for n in names}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a preset."""
    head = (
        f"{'preset':12s} {'n':>4s} {'sampler s':>10s} {'job s':>8s} {'share':>7s} {'whole s':>8s}"
    )
    lines = [
        f"{row['preset']:12s} {row['volumes']:4d} {row['sampler_s_per_volume']:10.3f} "
        f"{row['job_s_per_volume']:8.3f} {row['share']:7.3f} {row['whole_s']:8.1f}  "
        + ", ".join(f"{k} {v:.3f}" for k, v in row["stages_s"].items())
        for row in rows
    ]
    return "\n".join([head, *lines])


def _commits(folder: RunFolder) -> list[Commit]:
    """Commit records of the run, in order of time."""
    found = [ledger.read_commit(folder, row.sample_id) for row in iter_plan(folder.plan)]
    return sorted((commit for commit in found if commit), key=lambda commit: commit.committed_at)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
