#!/usr/bin/env python
"""How a run scales: over workers, over simulated workers, over rows, and what the machinery costs.

    python benchmarks/bench_scaling.py [--part NAME ...] [--quick] [--weights FOLDER]

Parts:
    real: one worker of one thread, then two, sample the same phantoms (efficiency); one worker is
        also held against a plain loop over the sampler in one process (machinery_share: plan, read,
        hash, write and commit; measuring_share; overhead_share: all, and the machine's moods).
    busy: 64 simulated workers in 4 processes, 2,000 volumes of 8 to 96 slices through Ray Data,
        reading, writing and committing for real. Compressed: sampling is 0.2 s a slice and volumes
        are 16 x 16 pixels, so that the whole takes minutes and two cores can write 64 workers'
        volumes.
    driver: the driver of 100,000 rows: peak memory to plan, hand out, end and rerun, and the
        seconds in which a finished run finds nothing to do. Nothing is sampled.

The last line is JSON: efficiency, busy_fraction, driver_peak_mb, resume_s, machinery_share; null
for what was not run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from long_run import driver_figures
from machine import about
from real_model import real_figures
from simulated import Simulation, busy_fraction

_ROOT = Path(__file__).resolve().parents[1]
_PARTS = ("real", "busy", "driver")


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=_PARTS, default=_PARTS)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke run; its figures say little",
    )
    parser.add_argument("--weights", type=Path, default=_ROOT / "weights" / "demo_abdomen")
    parser.add_argument("--volumes", type=int, default=24, help="of part real; an even number")
    parser.add_argument("--rounds", type=int, default=2, help="of part real; the fastest counts")
    parser.add_argument("--place", type=Path, help="for the runs; a temporary folder otherwise")
    options = parser.parse_args(args)
    found: dict[str, Any] = {
        "bench": "scaling", **about(), "quick": options.quick,
        "efficiency": None, "busy_fraction": None, "driver_peak_mb": None, "resume_s": None,
        "machinery_share": None,
    }  # fmt: skip
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(dir=options.place) as name:
        place = Path(name)
        for part in options.part:
            print(f"part {part}", flush=True)
            (place / part).mkdir()
            found |= _run(part, place / part, options)
    print(json.dumps(found))
    return 0


def _run(part: str, place: Path, options: Namespace) -> dict[str, Any]:
    quick = options.quick
    if part == "real":
        if quick:
            return real_figures(place, options.weights, 4, num_steps=1, rounds=1)
        return real_figures(place, options.weights, options.volumes, None, options.rounds)
    if part == "busy":
        simulation = Simulation()
        if quick:
            simulation = replace(
                simulation, num_volumes=64, num_workers=8, num_processes=2, seconds_a_slice=0.1
            )
        fraction = busy_fraction(place, simulation)
        ideal_s = simulation.num_volumes * simulation.seconds_a_slice
        ideal_s *= sum(simulation.lengths) / len(simulation.lengths) / simulation.num_workers
        return {"busy_fraction": round(fraction, 4), "busy_ideal_s": round(ideal_s, 1)}
    figures = driver_figures(place, 500, 50) if quick else driver_figures(place, 100_000)
    peak = max(value for name, value in figures.items() if name.endswith("_mb"))
    return {"driver_peak_mb": peak, **figures}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
