#!/usr/bin/env python
"""Whether slices of the position model look like the height they were asked for.

    python benchmarks/bench_position.py --weights FOLDER [--heights 0.2 0.5 0.8] [--out FOLDER]

Draws slices at each height and looks each up among the real slices of held-out phantoms, at any
height: `found` is the mean height of the nearest ones (mean absolute difference), `error` the mean
distance of these heights from what was asked for. With no relation of height and picture the error
would be about 0.3. The picture shows generated slices and, at their right, real ones of the same
height. JSON at the end.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray

from engine.sampling.networks.slices import draw_slice
from engine.volumes.phantoms.cohort import COHORT_SEED, prepared_phantom
from engine.volumes.volume import PreparedCase
from models.weights.folder import load_autoencoder, load_position, read_manifest

mpl.use("agg")
SEED = 0
FIRST_INDEX = 1000  # phantoms from here on were never trained on
DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "demo_abdomen"
Slices = NDArray[np.float32]


def main(args: Sequence[str]) -> int:
    """Draw, look up, print, return 0."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--weights", type=Path, default=DEFAULT_WEIGHTS)
    add("--heights", nargs="+", type=float, default=[0.2, 0.5, 0.8])
    add("--samples", type=int, default=6, help="slices a height")
    add("--phantoms", type=int, default=4, help="held-out phantoms to look slices up in")
    add("--out", type=Path, help="folder for position.png")
    options = parser.parse_args(args)
    torch.set_num_threads(os.cpu_count() or 1)
    drawn = draw(options.weights, options.heights, options.samples)
    real = [prepared_phantom(FIRST_INDEX + index) for index in range(options.phantoms)]
    rows = []
    for height, planes in drawn.items():
        found = np.array([nearest_height(plane, real) for plane in planes])
        row = {"height": height, "found": found.mean(), "error": np.abs(found - height).mean()}
        rows.append({name: round(float(value), 4) for name, value in row.items()})
        print(rows[-1], flush=True)
    if options.out is not None:
        picture(options.out / "position.png", drawn, real)
    result: dict[str, Any] = {"bench": "position", "weights": options.weights.name, "rows": rows}
    result |= {"samples": options.samples, "cases": [c.case_id for c in real], "seed": SEED}
    print(json.dumps({**result, "cohort_seed": COHORT_SEED}))
    return 0


def draw(weights: Path, heights: Sequence[float], count: int) -> dict[float, Slices]:
    """`count` slices at each height."""
    manifest = read_manifest(weights)
    autoencoder, net = load_autoencoder(weights, manifest), load_position(weights, manifest)
    return {
        height: np.stack(
            [
                draw_slice(manifest, autoencoder, net, height, SEED, f"slice{index}")
                for index in range(count)
            ]
        )
        for height in heights
    }


def nearest_height(plane: Slices, cases: Sequence[PreparedCase]) -> float:
    """Normalised height of the real slice that differs least."""
    best = (np.inf, 0.0)
    for case in cases:
        assert case.image is not None
        errors = np.abs(case.image - plane).mean(axis=(1, 2))
        z = int(errors.argmin())
        best = min(best, (float(errors[z]), z / (len(errors) - 1)))
    return best[1]


def picture(path: Path, drawn: dict[float, Slices], real: Sequence[PreparedCase]) -> None:
    """A row a height: generated slices, then real ones."""
    from matplotlib import pyplot as plt

    count = len(next(iter(drawn.values())))
    size = (1.7 * (count + len(real)), 1.8 * len(drawn))
    figure, axes = plt.subplots(len(drawn), count + len(real), figsize=size, layout="constrained")
    for row, (height, planes) in zip(np.atleast_2d(axes), drawn.items(), strict=True):
        others = [c.image[round(height * (len(c.image) - 1))] for c in real if c.image is not None]
        for axis, plane in zip(row, [*planes, *others], strict=True):
            axis.imshow(plane, cmap="gray", vmin=-1, vmax=1, origin="lower")
            axis.set_axis_off()
        row[0].set_title(f"generated, p = {height:g}", fontsize=8, loc="left")
        row[count].set_title(f"real, p = {height:g}", fontsize=8, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
