#!/usr/bin/env python
"""Harmonization with a known answer: the same patients scanned at every site.

    python benchmarks/bench_harmonization.py [--out FOLDER] [--weights FOLDER] [--patients 6]

Phantoms can be scanned at all four sites, so the reference site's true image of each patient is
known. Runs jobs/harmonize_sites.py's job towards the reference site and measures what patients'
data never tells: `shrunk`, how many times the spread between sites of each organ's mean became
smaller, and whether each volume is nearer to the true image at the reference site than its input
was, by the mean distance of organ intensity distributions and by the mean error inside the body.
Volumes that are not must be among those that the job lists as damaged, or, for their organs, as
unproven; `missed` are those that it does not list. `estimate_error` is how well the job, which
does not know the truth, estimates these errors of input and volume by `shifted` and `redrawn`;
`verdict` counts how often what it lists is right, missed or a false alarm.

`rivals` are rows without a model, by the same job: identity (the input as it is), quantile matching
to the slice by class, and painting. `autoencoder` is what the weights' autoencoder alone does to
the true images at the reference site: no volume of theirs can be nearer.

Patients start at index 1000 of the cohort: none was trained on. JSON at the end.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.evaluation.harmonization import organ_distances
from engine.log import show_log
from engine.preparing.dataset import run_job
from engine.preparing.settings import PrepareJob
from engine.runs.jobs.harmonize import HarmonizeConfig, harmonize
from engine.runs.report.harmonization import Harmonization
from engine.sampling.rivals.methods import MethodName
from engine.volumes.nifti import read_image
from engine.volumes.phantoms.cohort import write_cohort
from engine.volumes.phantoms.phantom import SITES, PhantomConfig
from engine.volumes.prepare_config import ABDOMEN_CT
from engine.volumes.prepared.store import read_prepared
from engine.volumes.store import read_ome_zarr
from engine.volumes.volume import Array
from models.weights.folder import load_autoencoder
from models.weights.folder import read_manifest as read_weights_manifest

DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "demo_abdomen"
FIRST_INDEX = 1000
RIVALS: tuple[MethodName, ...] = ("identity", "quantiles", "painting")


def main(args: Sequence[str]) -> int:
    """Make the sites, harmonize them, measure, print; 0 when the run is complete."""
    options = parse(args)
    show_log()
    sites = {site.name: make_site(site.name, options) for site in SITES}
    config = HarmonizeConfig(
        sites=tuple(f"{name}={path}" for name, path in sites.items()),
        weights=options.weights,
        out=options.out / "run",
        reference_site=options.reference,
        num_pictured=8,
        seed=options.seed,
    )
    outcome = harmonize(config)
    found = Harmonization.model_validate_json((config.out / "harmonization.json").read_text())
    rows = [nearness(volume.sample_id, options, "run") for volume in found.volumes]
    result = summary(found, rows, options)
    result["rivals"] = {
        name: rival(config, name, options) for name in (() if options.no_rivals else RIVALS)
    }
    result["autoencoder"] = autoencoder_error(sites[options.reference], options.weights)
    print(json.dumps(result))
    return 1 if outcome.summary.failed else 0


def parse(args: Sequence[str]) -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/bench_harmonization"))
    add("--weights", type=Path, default=DEFAULT_WEIGHTS)
    add("--patients", type=int, default=6)
    add("--reference", default="A", choices=[site.name for site in SITES])
    add("--num-slices", type=int, default=70, help="of each phantom, at 3 mm")
    add("--seed", type=int, default=0)
    add("--no-rivals", action="store_true", help="leave out the rows without a model")
    return parser.parse_args(args)


def make_site(name: str, options: Namespace) -> Path:
    """The patients as one site scans them, prepared; what is there is kept."""
    raw, prepared = options.out / f"raw_{name}", Path(options.out / f"site_{name}")
    indices = range(FIRST_INDEX, FIRST_INDEX + options.patients)
    write_cohort(raw, indices, config=PhantomConfig(site=name, num_slices=options.num_slices))
    run_job(PrepareJob(root=raw, out=prepared))
    return prepared


def rival(config: HarmonizeConfig, name: MethodName, options: Namespace) -> dict[str, float]:
    """Mean distances of a rival's volumes of the other sites to the truth, in HU."""
    out = options.out / f"run_{name}"
    harmonize(config.model_copy(update={"method": name, "out": out, "num_pictured": 0}))
    found = Harmonization.model_validate_json((out / "harmonization.json").read_text())
    rows = [nearness(volume.sample_id, options, out.name) for volume in found.volumes]
    return mean_distances(rows)


def mean_distances(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Over the volumes of other sites than the reference's."""
    told = [row for row in rows if not row["is_truth"]]
    names = ("organs_before", "organs_after", "body_before", "body_after")
    return {name: round(float(np.mean([row[name] for row in told])), 2) for name in names}


def autoencoder_error(site: Path, weights: Path) -> dict[str, float]:
    """Of a round trip of the reference site's images through the autoencoder, in HU."""
    autoencoder = load_autoencoder(weights, read_weights_manifest(weights)).eval()
    organs, body = [], []
    for path in sorted(site.glob("*.zarr")):
        case = read_prepared(path)
        assert case.image is not None
        with torch.no_grad():
            slices = torch.split(torch.from_numpy(case.image)[:, None], 8)
            parts = [autoencoder.decode(autoencoder.encode(s).mean) for s in slices]
        back = case.intensity.to_source(torch.cat(parts)[:, 0].numpy())
        truth = case.intensity.to_source(case.image)
        distances = organ_distances(quantiles(back, case.mask), quantiles(truth, case.mask))
        organs.append(float(np.mean(list(distances.values()))))
        body.append(float(np.abs(back - truth)[case.mask > 0].mean()))
    return {"organs": round(float(np.mean(organs)), 2), "body": round(float(np.mean(body)), 2)}


def nearness(sample_id: str, options: Namespace, run: str) -> dict[str, Any]:
    """Distances of one volume and of its input to the true image at the reference site, in HU."""
    site, _, rest = sample_id.partition("--")
    case_id = rest.rsplit("-r", 1)[0]
    before, truth = (
        read_image(options.out / f"raw_{name}" / "imagesTr" / f"{case_id}_0000.nii.gz").array
        for name in (site, options.reference)
    )
    after, mask, _ = read_ome_zarr(options.out / run / "volumes" / f"{sample_id}.ome.zarr")
    low, high = ABDOMEN_CT.clip_hu  # a model's volumes hold no more
    truth = truth.clip(low, high)
    found: dict[str, Any] = {"sample_id": sample_id, "is_truth": site == options.reference}
    for moment, image in (("before", before.clip(low, high)), ("after", after.array)):
        organs = organ_distances(quantiles(image, mask.array), quantiles(truth, mask.array))
        found[f"organs_{moment}"] = round(float(np.mean(list(organs.values()))), 2)
        error = np.abs(image - truth)[mask.array > 0]
        found[f"body_{moment}"] = round(float(error.mean()), 2)
    return found


def quantiles(image: Array, mask: Array) -> dict[str, list[float]]:
    """Of each organ's intensities; the body contour is left out."""
    levels = np.linspace(0.0, 1.0, 21)
    organs = enumerate(ABDOMEN_CT.class_names, start=1)
    inside = {name: image[mask == number] for number, name in organs}
    return {name: np.quantile(v, levels).tolist() for name, v in inside.items() if v.size}


def estimate_error(found: Harmonization, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean distance between the job's estimates and the true errors inside the body, in HU."""
    volumes = {volume.sample_id: volume for volume in found.volumes}
    pairs = {"shifted": "body_before", "redrawn": "body_after"}
    return {
        name: round(
            float(np.mean([abs(getattr(volumes[r["sample_id"]], name) - r[truth]) for r in rows])),
            2,
        )
        for name, truth in pairs.items()
    }


def verdict(rows: list[dict[str, Any]], measure: str, listed: set[str]) -> dict[str, int]:
    """How often the job's list agrees with the truth, for volumes of the other sites."""
    counts = {"right": 0, "missed": 0, "false_alarm": 0}
    for row in rows:
        is_farther = row[f"{measure}_after"] >= row[f"{measure}_before"]
        is_listed = row["sample_id"] in listed
        kind = "right" if is_farther == is_listed else "missed" if is_farther else "false_alarm"
        counts[kind] += 1
    return counts


def summary(found: Harmonization, rows: list[dict[str, Any]], options: Namespace) -> dict[str, Any]:
    """The figures; volumes of the reference site have nothing to come nearer to."""
    rows = [row for row in rows if not row["is_truth"]]
    farther = {
        measure: [r["sample_id"] for r in rows if r[f"{measure}_after"] >= r[f"{measure}_before"]]
        for measure in ("organs", "body")
    }
    spread = next(iter(found.spread.values()))
    listed = {"organs": {*found.damaged, *found.unproven}, "body": set(found.damaged)}
    return {
        "bench": "harmonization",
        "reference": found.references[0],
        "volumes": len(found.volumes),
        "spread_before": {name: organ.before for name, organ in spread.items()},
        "spread_after": {name: organ.after for name, organ in spread.items()},
        "shrunk": {name: organ.shrunk for name, organ in spread.items()},
        "own_error": found.own_error,
        "damaged": found.damaged,
        "unproven": found.unproven,
        "farther": farther,
        "missed": {m: sorted(set(names) - listed[m]) for m, names in farther.items()},
        "verdict": {m: verdict(rows, m, listed[m]) for m in ("organs", "body")},
        "means": mean_distances(rows),
        "estimate_error": estimate_error(found, rows),
        "rows": rows,
        "weights": options.weights.name,
        "seed": options.seed,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
