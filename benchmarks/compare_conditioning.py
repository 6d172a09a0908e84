#!/usr/bin/env python
r"""The paper's comparisons at equal steps: conditioning, mask encoding, slice position, stage 2.

    python benchmarks/compare_conditioning.py --data PREPARED --autoencoder WEIGHTS \
        --holdout pat0002 --out FOLDER [--slice-steps 200] [--volume-steps 200]

Trains every way of Table 3 (concatenation, ControlNet, image attention), each with both mask
encodings, through the stages `slice` and `volume` with one seed, data order and number of steps;
then concatenation without slice position, and with all steps in stage 1 (Table C.2). What the
demo's preset has beyond the paper (style embedding, painted masks) is left out everywhere. Each is
measured on the held-out cases, informed by their own middle slice. Stages that FOLDER holds are not
trained again. Writes conditioning.md, conditioning.csv and conditioning.png; JSON at the end.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

from engine.evaluation.continuity import roughness, seam_ratio
from engine.evaluation.fidelity import ms_ssim
from engine.log import show_log
from engine.parallel.start.session import RaySession
from engine.sampling.sampler import Sampler, SampleRequest, SamplingConfig
from engine.training.config import SpecValue, Stage, TrainConfig
from engine.training.loop.ray_train import train_stage
from engine.training.losses.perceptual import load_feature_loss
from engine.volumes.prepared.store import read_prepared
from engine.volumes.volume import PreparedCase
from models.weights.folder import AUTOENCODER, CONFIG, read_manifest

mpl.use("agg")
SEED = 0
COLUMNS = (
    "ms_ssim",
    "feature_distance",
    "seam_ratio",
    "roughness",
    "slice_loss",
    "volume_loss",
    "parameters",
)
PLAIN: dict[str, SpecValue] = {"style_embedding": False, "class_intensity_input": False}


@dataclass(frozen=True)
class Variant:
    """One way to condition.

    Attributes:
        name: of its folder and row.
        fields: of the preset's denoiser.
        stages: that it is trained through; one alone gets the steps of both.
    """

    name: str
    fields: dict[str, SpecValue]
    stages: tuple[Stage, ...] = ("slice", "volume")


def variants() -> list[Variant]:
    """Table 3 with both mask encodings, then Table C.2."""
    ways = ("concatenate", "controlnet", "image_attention")
    rows = [
        Variant(f"{way}, {masks}", {**PLAIN, "conditioning": way, "mask_encoding": masks})
        for way, masks in product(ways, ("one_hot", "grey_vae"))
    ]
    first = rows[0]
    lone = {**first.fields, "slice_position": False}
    return [
        *rows,
        Variant(f"{first.name}, no slice position", lone),
        Variant(f"{first.name}, no volume stage", first.fields, ("slice",)),
    ]


def main(args: Sequence[str]) -> int:
    """Train what is missing, measure, write, return 0."""
    options = parse(args)
    show_log()
    chosen = [v for v in variants() if not options.only or v.name in options.only]
    with RaySession() as session:
        session.start(show_workers=True)
        for variant in chosen:
            for stage in variant.stages:
                train(variant, stage, options)
    cases = [read_prepared(options.data / f"{name}.zarr") for name in options.holdout]
    rows, pictures = [], {}
    for variant in chosen:
        row, image = measure(variant, cases, options)
        rows.append(row)
        pictures[variant.name] = image
        print(row, flush=True)
    write(options.out, rows)
    draw(options.out / "conditioning.png", cases[0], pictures)
    result = {"bench": "conditioning", "holdout": options.holdout, "seed": SEED, "rows": rows}
    steps = {"slice_steps": options.slice_steps, "volume_steps": options.volume_steps}
    print(json.dumps({**result, **steps, "inference_steps": options.inference_steps}))
    return 0


def parse(args: Sequence[str]) -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="prepared cases")
    add("--autoencoder", type=Path, required=True, help="weights folder with the autoencoder")
    add("--holdout", nargs="+", required=True, help="cases to measure on, never trained on")
    add("--out", type=Path, required=True, help="weights, checkpoints and results")
    add("--preset", default="demo")
    add("--slice-steps", type=int, default=200)
    add("--volume-steps", type=int, default=200)
    add("--slice-batch", type=int, default=16)
    add("--inference-steps", type=int, default=5)
    add("--threads", type=int)
    add("--perceptual", type=Path, help="ImageNet trunk for a feature distance")
    add("--only", nargs="+", help="names of variants")
    return parser.parse_args(args)


def folder_of(variant: Variant, options: Namespace) -> Path:
    """Where its weights lie."""
    return Path(options.out / "weights" / variant.name.replace(", ", "-").replace(" ", "_"))


def train(variant: Variant, stage: Stage, options: Namespace) -> None:
    """Take one stage of a variant to its end, unless it has been there."""
    folder = folder_of(variant, options)
    if not (folder / CONFIG).is_file():
        folder.mkdir(parents=True)
        for name in (AUTOENCODER, CONFIG):
            shutil.copyfile(options.autoencoder / name, folder / name)
    if stage in read_manifest(folder).stages:
        return
    slices = stage == "slice"
    steps = options.slice_steps if slices else options.volume_steps
    if len(variant.stages) == 1:
        steps = options.slice_steps + options.volume_steps
    config = TrainConfig(
        stage=stage,
        preset=options.preset,
        denoiser=variant.fields,
        data=options.data,
        weights=folder,
        work=options.out / "work" / folder.name,
        holdout=tuple(options.holdout),
        num_iterations=steps,
        batch_size=options.slice_batch if slices else 1,
        learning_rate=6e-4,
        warmup=20,
        ema_half_life=25,
        high_noise_share=0.0 if slices else 0.5,
        tune="volumetric" if slices else "all",
        threads=options.threads,
        seed=SEED,
        trackers=(),
    )
    train_stage(config)


def measure(
    variant: Variant, cases: Sequence[PreparedCase], options: Namespace
) -> tuple[dict[str, Any], Any]:
    """A row of the table, and the first case's volume."""
    folder = folder_of(variant, options)
    config = SamplingConfig(num_inference_steps=options.inference_steps)
    sampler = Sampler.load(folder, config)
    found, images = [], []
    for case in cases:
        assert case.image is not None
        volume = sampler.sample(SampleRequest.own(case, SEED))
        inside = case.mask > 0
        values = {
            "ms_ssim": ms_ssim(volume.image, case.image, 2.0),
            "seam_ratio": seam_ratio(volume.image, volume.joins, inside),
            "roughness": roughness(volume.image, inside) / roughness(case.image, inside),
        }
        if options.perceptual is not None:
            values["feature_distance"] = feature_distance(volume.image, case.image, options)
        found.append(values)
        images.append(volume.image)
    row: dict[str, Any] = {"variant": variant.name}
    for name in found[0]:
        row[name] = round(float(np.mean([values[name] for values in found])), 4)
    stages = read_manifest(folder).stages
    for stage in ("slice", "volume"):
        row[f"{stage}_loss"] = stages.get(stage, {}).get("loss")
    row["parameters"] = stages[variant.stages[-1]].get("num_parameters")
    return row, images[0]


def feature_distance(image: Any, real: Any, options: Namespace) -> float:
    """Mean distance of features of the slices (arXiv:1801.03924 without learnt weights)."""
    loss = load_feature_loss(options.perceptual)
    with torch.no_grad():
        ours, theirs = (
            torch.from_numpy(np.asarray(volume, np.float32))[:, None, None]
            for volume in (image, real)
        )
        return float(np.mean([float(loss(a, b)) for a, b in zip(ours, theirs, strict=True)]))


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The table for programs and for people."""
    names = ["variant", *[n for n in COLUMNS if any(row.get(n) is not None for row in rows)]]
    with (folder / "conditioning.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    lines = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]
    (folder / "conditioning.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(path: Path, case: PreparedCase, pictures: dict[str, Any]) -> None:
    """Axial, coronal and sagittal middle of the real volume and of each variant's."""
    from matplotlib import pyplot as plt

    assert case.image is not None
    shown = {"real": case.image, **pictures}
    figure, axes = plt.subplots(3, len(shown), figsize=(2.1 * len(shown), 6), layout="constrained")
    for column, (name, image) in enumerate(shown.items()):
        z, y, x = (size // 2 for size in image.shape)
        planes = (image[z], image[::-1, y], image[::-1, :, x])
        for row, plane in enumerate(planes):
            axis = axes[row, column]
            axis.imshow(plane, cmap="gray", vmin=-1, vmax=1, aspect="auto" if row else "equal")
            axis.set_axis_off()
        axes[0, column].set_title(name.replace(", ", "\n"), fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
