#!/usr/bin/env python
"""Faults that a run must survive: each is caused for real, then the job is started again.

    python benchmarks/bench_faults.py [--only NAME ...] [--no-ray]

Every fault (`benchmarks/faults/`) strikes a run of its own over the same phantoms, with a fake
sampler (the faults are those of everything around it) and, where no cluster is needed, without Ray.
Afterwards the run must hold what an undisturbed run holds. The last line is JSON: faults, survived,
skipped, lost, duplicated, max_abs_diff (share of the intensity range).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.command import run_command
from engine.errors import EngineError
from engine.runs.record.folder import RunFolder
from faults.bench import Bench, Fault, run_job
from faults.registry import FAULTS


def main(args: Sequence[str]) -> int:
    """Strike, compare, print; return 0 when everything survived."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=FAULTS, help="these faults only")
    parser.add_argument("--no-ray", action="store_true", help="leave out those that need Ray")
    parser.add_argument("--child", help="inner use: be the job that a fault strikes")
    parser.add_argument("--place", type=Path, help="inner use")
    parser.add_argument("--out", type=Path, help="inner use")
    parser.add_argument("--ray", action="store_true", help="inner use")
    known = parser.parse_args(args)
    if known.child is not None:
        return child(FAULTS[known.child], Bench(known.place), known.out, ray=known.ray)
    chosen = [FAULTS[name] for name in known.only or FAULTS]
    with tempfile.TemporaryDirectory(prefix="gem3d-") as place:
        bench = Bench.make(Path(place))
        result = strike(bench, [f for f in chosen if not (known.no_ray and f.needs_ray)])
    print(json.dumps(result))
    return 0 if result["survived"] == result["faults"] else 1


def child(fault: Fault, bench: Bench, out: Path, *, ray: bool) -> int:
    """What the process of a fault does."""
    marks = out.with_name(f"{out.name}.marks")
    marks.mkdir(exist_ok=True)
    config = bench.config(out).model_copy(update={"rows_at_once": fault.rows_at_once})
    return run_command(lambda: min(1, run_job(config, fault.inside(marks), ray=ray)), print)


def strike(bench: Bench, faults: Sequence[Fault]) -> dict[str, Any]:
    """All faults, each on a run of its own."""
    survived = lost = duplicated = skipped = 0
    worst = 0.0
    for fault in faults:
        out, started = bench.place / fault.name.replace(" ", "-"), time.perf_counter()
        try:
            trouble = fault.strike(bench, out)
        except subprocess.TimeoutExpired as error:
            trouble = f"not done after {error.timeout:.0f} s"
        except (EngineError, OSError) as error:  # a job that gave up otherwise than it should
            trouble = f"{type(error).__name__}: {error}"
            RunFolder(out).create()
        if trouble and not (out / "volumes").exists():
            RunFolder(out).create()  # it did not even begin
        if trouble.startswith("skipped"):
            skipped += 1
            print(f"{fault.name:20s} {trouble}", flush=True)
            continue
        gone, more, apart = bench.compare(out, fault.spared)
        survived += not (trouble or gone or more)
        lost, duplicated, worst = lost + gone, duplicated + more, max(worst, apart)
        took_s = time.perf_counter() - started
        print(f"{fault.name:20s} {trouble or 'survived'} ({took_s:.0f} s)", flush=True)
    return {
        "bench": "faults",
        "faults": len(faults) - skipped,
        "survived": survived,
        "skipped": skipped,
        "lost": lost,
        "duplicated": duplicated,
        "max_abs_diff": worst,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
