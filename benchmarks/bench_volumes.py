#!/usr/bin/env python
"""How long a case takes on its way in and out, without a model: one line a stage, JSON at the end.

    python benchmarks/bench_volumes.py [--repeats 3]

The case is a phantom of the demo's size, in a temporary folder; the best of the repeats counts.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from engine.volumes.nifti import read_image, read_labels, write_nifti
from engine.volumes.phantoms.phantom import make_phantom
from engine.volumes.prepared.prepare import ABDOMEN_CT, mask_to_native, prepare_case, to_native
from engine.volumes.prepared.store import read_prepared, write_prepared
from engine.volumes.store import hash_tree, read_ome_zarr, write_ome_zarr

R = TypeVar("R")


def main(args: Sequence[str]) -> int:
    """Measure, print, return 0."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="the best counts")
    repeats = parser.parse_args(args).repeats
    best: dict[str, float] = {}
    for _ in range(repeats):
        for stage, seconds in one_round().items():
            best[stage] = min(seconds, best.get(stage, seconds))
    for stage, seconds in best.items():
        print(f"{stage:16s} {seconds * 1000:8.1f} ms")
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    seconds_by_stage = {stage: round(seconds, 4) for stage, seconds in best.items()}
    print(json.dumps({"bench": "volumes", "seconds": seconds_by_stage, **machine}))
    return 0


def one_round() -> dict[str, float]:
    """Take one phantom through all stages; seconds of each."""
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], R]) -> R:
        start = time.perf_counter()
        result = work()
        seconds[stage] = time.perf_counter() - start
        return result

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        phantom = timed("make_phantom", lambda: make_phantom(0, 0))
        write_nifti(folder / "image.nii.gz", phantom.image)
        write_nifti(folder / "labels.nii.gz", phantom.labels)
        image = timed("read_image", lambda: read_image(folder / "image.nii.gz"))
        labels = timed("read_labels", lambda: read_labels(folder / "labels.nii.gz"))
        case = timed("prepare_case", lambda: prepare_case(image, labels, ABDOMEN_CT, "bench"))
        timed("write_prepared", lambda: write_prepared(folder / "bench.zarr", case))
        case = timed("read_prepared", lambda: read_prepared(folder / "bench.zarr"))
        drawn = case.image
        assert drawn is not None
        native = timed("to_native", lambda: to_native(case, drawn))
        mask = mask_to_native(case, case.mask)
        out = folder / "bench.ome.zarr"
        timed("write_ome_zarr", lambda: write_ome_zarr(out, native, mask, {}))
        timed("hash_tree", lambda: hash_tree(out))
        timed("read_ome_zarr", lambda: read_ome_zarr(out))
    return seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
