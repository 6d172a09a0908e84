#!/usr/bin/env python
"""Contrast of edited lesions: is the lesion where it was put, and gone from where it was?

    python benchmarks/bench_counterfactuals.py --run runs/edit --data runs/prepared

For each volume of a run of jobs/edit_lesions.py: mean intensity inside the edited lesion minus the
mean of the rest of the body, in the body's standard deviations; the same where the case's own
lesion was and the edited one is not; and how far the lesion's centre moved. JSON at the end.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow, read_plan
from engine.volumes.labels.contour_class import organ_names
from engine.volumes.prepared.manifest import read_manifest
from engine.volumes.prepared.store import read_prepared
from engine.volumes.store import read_ome_zarr

MIN_VOXELS = 10


def main(args: Sequence[str]) -> int:
    """Measure every volume of the run, print, return 0."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the prepared cases")
    options = parser.parse_args(args)
    folder, manifest = RunFolder(options.run), read_manifest(options.data)
    names = organ_names(manifest.class_names, manifest.config.contour_name)
    lesions = [manifest.class_names.index(name) + 1 for name in names]
    rows = [measure(folder, plan, options.data, lesions) for plan in read_plan(folder.plan)]
    for row in rows:
        print(row)
    print(json.dumps({"bench": "counterfactuals", "run": options.run.name, "rows": rows}))
    return 0


def measure(folder: RunFolder, plan: PlanRow, data: Path, lesions: list[int]) -> dict[str, Any]:
    """One volume's contrasts; None where there is no such place."""
    commit = ledger.read_commit(folder, plan.sample_id)
    if commit is None:
        return {"sample_id": plan.sample_id, "error": "not made"}
    image, mask, _ = read_ome_zarr(ledger.volume_of(folder, commit))
    case = read_prepared(data / plan.mask_source)
    now, before = np.isin(mask.array, lesions), np.isin(case.native_mask, lesions)
    body = mask.array > 0
    return {
        "sample_id": plan.sample_id,
        "contrast": contrast(image.array, now, body & ~now),
        "contrast_where_it_was": contrast(image.array, before & ~now, body & ~(before | now)),
        "moved_mm_zyx": moved(before, now, image.spacing_mm_zyx),
    }


def contrast(
    image: NDArray[np.float32], inside: NDArray[np.bool_], around: NDArray[np.bool_]
) -> float | None:
    """Mean inside minus mean around, in the standard deviations of both together."""
    if min(np.count_nonzero(inside), np.count_nonzero(around)) < MIN_VOXELS:
        return None
    spread = float(image[inside | around].std())
    return round(float(image[inside].mean() - image[around].mean()) / spread, 2) if spread else None


def moved(
    before: NDArray[np.bool_], now: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> list[float] | None:
    """From one centre to the other along the array's axes; None without one of them."""
    if not before.any() or not now.any():
        return None
    centres = [np.argwhere(mask).mean(axis=0) for mask in (before, now)]
    return [round(float(v), 1) for v in (centres[1] - centres[0]) * np.array(spacing_mm)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
