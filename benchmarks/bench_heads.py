"""What a heads model is worth: four heads it never saw, beside painting, atlas and redrawn truth.

`python benchmarks/bench_heads.py WEIGHTS ... --packed PACKED --cases FOLDER --out DIR`. Prints one
JSON object as its last line and writes DIR/heads.json and DIR/heads.png (rows of a head: real, what
the autoencoder makes of it, two samples). With `--wait` the weights may still be in training.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine.evaluation.continuity import seam_ratio
from engine.sampling.diffusion.schedule import ScheduleConfig, make_schedule
from engine.sampling.make_solver import make_solver
from engine.sampling.request import SampledVolume, SampleRequest
from engine.sampling.rivals.atlas import align, lay_onto, mean_image, usual_means
from engine.sampling.rivals.painting import complete, means_in, paint
from engine.sampling.sampler import Sampler, SamplingConfig
from engine.volumes.volume import PreparedCase
from head_cases import load_anatomies, load_case, test_case
from head_scores import ms_ssim_slices, squared_error, ssim_at, texture_by_class
from models.weights.folder import load_autoencoder, read_manifest

Volume = NDArray[np.float32]
SHOWN = 7
Scores = dict[str, float]


class Test:
    """A head that no model has seen, and all that is compared with it."""

    def __init__(self, case: PreparedCase, redrawn: PreparedCase, device: torch.device) -> None:
        assert case.image is not None
        assert redrawn.image is not None
        self.case, self.real, self.redrawn = case, case.image, redrawn.image
        self.middle = len(case.image) // 2
        self.device = device
        self.truth = torch.from_numpy(case.image).to(device)
        self.mask = torch.from_numpy(case.mask).to(device)
        self.body = self.mask > 0

    def scores(self, image: Volume, joins: Sequence[int] = ()) -> Scores:
        """Of one volume."""
        made = torch.from_numpy(image).to(self.device)
        body, truth, classes = self.body, self.truth, self.case.num_classes
        inside = ms_ssim_slices(made, truth, body)
        fine = texture_by_class(made, self.mask, classes)
        real_fine = texture_by_class(truth, self.mask, classes)
        found = {
            "ms_ssim": float(ms_ssim_slices(made, truth).mean()),
            "ms_ssim_body": float(inside[~inside.isnan()].mean()),
            "own_height": ssim_at(made, truth, body, self.middle),
            "error": float((made - truth).abs()[body].mean()),
            "squared": squared_error(made, truth, body),
        }
        for number, name in enumerate(self.case.class_names):
            there = self.mask == number + 1
            found[f"bias {name}"] = float((made - truth)[there].mean()) if there.any() else 0.0
            found[f"texture {name}"] = fine[number] / real_fine[number]
        if joins:
            numpy_body = self.case.mask > 0
            real_ratio = seam_ratio(self.real, joins, numpy_body)
            found["seam"] = seam_ratio(image, joins, numpy_body) / real_ratio
        return found

    def request(self, seed: int, other: Test | None = None) -> SampleRequest:
        """With its own middle slice, or that of another head."""
        own = replace(SampleRequest.own(self.case, seed), sample_id=f"{self.case.case_id}-{seed}")
        if other is None:
            return own
        z = other.middle
        return replace(
            own, informed=other.real[z], informed_mask=other.case.mask[z], pinned=None,
            informed_position=z / (len(other.real) - 1), sample_id=f"{own.sample_id}-cross",
        )  # fmt: skip


def _tests(packed: Path, device: torch.device, num_processes: int) -> list[Test]:
    anatomies = load_anatomies(packed, "test")
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        cases = pool.map(test_case, anatomies * 2, [0] * len(anatomies) + [1] * len(anatomies))
        found = list(cases)
    pairs = zip(found[: len(anatomies)], found[len(anatomies) :], strict=True)
    return [Test(case, redrawn, device) for case, redrawn in pairs]


def rivals(tests: list[Test], cases: list[Path]) -> dict[str, list[Scores]]:
    """Painting by numbers, the aligned mean of training cases, and another draw of the truth."""
    aligned = []
    for path in cases:
        case = load_case(path)
        found = align(case.name, case.floats(), case.mask)
        aligned += [found] if found is not None else []
    mean, usual = mean_image(aligned), usual_means(aligned)
    rows: dict[str, list[Scores]] = {"painting": [], "atlas": [], "redrawn": []}
    for test in tests:
        z, mask = test.middle, test.case.mask
        means = complete(means_in(test.real[z], mask[z]), usual, test.case.num_classes)
        rows["painting"].append(test.scores(paint(mask, means)))
        if mean is not None:
            rows["atlas"].append(test.scores(lay_onto(mean, mask, -1.0)))
        rows["redrawn"].append(test.scores(test.redrawn))
    return rows


def sample_all(sampler: Sampler, requests: list[SampleRequest]) -> list[SampledVolume]:
    """Volumes in the order of the requests."""
    made = {o.sample_id: o.result() for o in sampler.sample_many(requests)}
    return [made[request.sample_id] for request in requests]


def load(weights: Path, device: str) -> Sampler:
    """The model, as a job would sample with it."""
    room = {"max_windows": 32, "memory_mb": 16384.0} if device == "cuda" else {}
    return Sampler.load(weights, SamplingConfig(**room), device)


def with_settings(sampler: Sampler, **changes: Any) -> Sampler:
    """The same model, laid out once, with other settings of the diffusion or of pinning."""
    other = copy.copy(sampler)
    other.config = sampler.config.model_copy(update=changes).resolved(sampler.manifest)
    schedule = make_schedule(ScheduleConfig.model_validate(sampler.manifest.schedule))
    other.solver = make_solver(other.config, schedule)
    walk = tuple(range(other.solver.num_evaluations))
    other.denoising = replace(sampler.denoising, solver=other.solver, walk=walk)
    return other


class Rows:
    """Scores of one model's volumes, row by row.

    Args:
        weights: the folder.
        tests: the heads.
        device: where to sample.
    """

    def __init__(self, weights: Path, tests: list[Test], device: str) -> None:
        self.tests, self.weights, self.device = tests, weights, device
        self.rows: dict[str, list[Scores]] = {}
        self.sampler = load(weights, device)

    def rebuilt(self) -> list[Volume]:
        """What comes back from the latents of the truth, in float32."""
        made = autoencoder(self.weights, self.tests)
        self.rows["autoencoder"] = [t.scores(v) for t, v in zip(self.tests, made, strict=True)]
        return made

    def samples(self, steps: int, seeds: int) -> list[list[SampledVolume]]:
        """Single samples, how they differ, and their mean."""
        sampler = with_settings(self.sampler, num_inference_steps=steps)
        flat = sample_all(sampler, [t.request(s) for t in self.tests for s in range(seeds)])
        made = [flat[i * seeds : (i + 1) * seeds] for i in range(len(self.tests))]
        single = [_mean_scores(t, volumes) for t, volumes in zip(self.tests, made, strict=True)]
        self.rows["single"] = single
        for test, volumes, row in zip(self.tests, made, single, strict=True):
            row["diversity"] = _diversity(test, [v.image for v in volumes], row["squared"])
        means = [np.mean([v.image for v in volumes], axis=0) for volumes in made]
        pairs = zip(self.tests, means, strict=True)
        self.rows[f"mean of {seeds}"] = [t.scores(m) for t, m in pairs]
        return made

    def add(self, name: str, others: list[Test] | None = None, **changes: Any) -> None:
        """One sample a head with other settings, or with another head's slice."""
        informed = others if others is not None else [None] * len(self.tests)
        pairs = zip(self.tests, informed, strict=True)
        requests = [test.request(0, other) for test, other in pairs]
        made = sample_all(with_settings(self.sampler, **changes), requests)
        scored = zip(self.tests, made, strict=True)
        self.rows[name] = [t.scores(v.image, v.joins) for t, v in scored]


def _mean_scores(test: Test, made: list[SampledVolume]) -> Scores:
    scored = [test.scores(v.image, v.joins) for v in made]
    return {key: float(np.mean([s[key] for s in scored])) for key in scored[0]}


@torch.no_grad()
def autoencoder(weights: Path, tests: list[Test]) -> list[Volume]:
    """What comes back from the latents of the truth, in float32."""
    net, rows = load_autoencoder(weights, read_manifest(weights)), []
    for test in tests:
        net = net.to(test.device)
        rows.append(
            net.decode(net.encode(test.truth[:, None]).mean)[:, 0].clamp(-1, 1).cpu().numpy()
        )
    return rows


def _diversity(test: Test, images: list[Volume], to_truth: float) -> float:
    made: list[Tensor] = [torch.from_numpy(image).to(test.device) for image in images]
    pairs = [
        squared_error(a, b, test.body) for a, b in zip(made, [*made[1:], made[0]], strict=True)
    ]
    return float(np.mean(pairs)) / to_truth


def sheet(
    tests: list[Test], rebuilt: list[Volume], by_test: list[list[SampledVolume]], samples: int
) -> NDArray[np.uint8]:
    """Real slices, rebuilt ones, and samples below them; a coronal slice at the right."""
    lines = []
    for test, back, made in zip(tests, rebuilt, by_test, strict=True):
        z = np.linspace(3, len(test.real) - 5, SHOWN).round().astype(int)
        z[SHOWN // 2] = test.middle
        for image in [test.real, back, *(volume.image for volume in made[:samples])]:
            coronal = np.full((128, 128), -1.0, np.float32)
            plane = np.repeat(image[::-1, 64], 2, axis=0)[:128]
            coronal[: len(plane)] = plane
            lines.append(np.concatenate([*image[z][:, ::-1], coronal], axis=1))
    grey = (np.clip(np.concatenate(lines), -1.0, 1.0) + 1.0) * 127.5
    return np.asarray(grey.round().astype(np.uint8))


def judge(
    weights: Path, tests: list[Test], given: argparse.Namespace, device: str
) -> Iterator[tuple[dict[str, list[Scores]], NDArray[np.uint8]]]:
    """All rows of one model, and its pictures, as they come; the most telling ones first."""
    found = Rows(weights, tests, device)
    rebuilt = found.rebuilt()
    made = found.samples(given.steps, given.seeds)
    shown = slice(0, given.shown)
    picture = sheet(tests[shown], rebuilt[shown], made[shown], given.samples)
    yield found.rows, picture
    for steps in given.curve:
        found.add(f"{steps} steps", num_inference_steps=steps)
        yield found.rows, picture
    found.add("cross", [*tests[1:], tests[0]], num_inference_steps=given.steps)
    yield found.rows, picture
    found.add("own, not pinned", num_inference_steps=given.steps, pin_informed="no")
    yield found.rows, picture


def means(rows: dict[str, list[Scores]]) -> dict[str, Scores]:
    """Mean over the heads."""
    return {
        row: {k: round(float(np.nanmean([s[k] for s in scores])), 4) for k in scores[0]}
        for row, scores in rows.items() if scores
    }  # fmt: skip


def show(name: str, table: dict[str, Scores]) -> None:
    """The most telling columns."""
    keys = (
        "ms_ssim",
        "ms_ssim_body",
        "own_height",
        "squared",
        "texture brain",
        "diversity",
        "seam",
    )
    print(f"{name:24s}", " ".join(f"{key:>13s}" for key in keys))
    for row, values in table.items():
        print(f"{row:24s}", " ".join(f"{values.get(key, float('nan')):13.3f}" for key in keys))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--packed", type=Path, required=True)
    parser.add_argument("--cases", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--curve", type=int, nargs="*", default=[2, 5, 10, 20])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--shown", type=int, default=4, help="heads in the picture")
    parser.add_argument("--samples", type=int, default=2, help="samples of each in the picture")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for weights")
    return parser.parse_args()


def main() -> None:
    """Everything, as one JSON object and one picture."""
    given = _arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    started = time.perf_counter()
    tests = _tests(given.packed, torch.device(device), given.processes)[: given.heads]
    drawn = [path for folder in given.cases for path in sorted(folder.glob("[!.]*.case.*"))][:24]
    base = means(rivals(tests, drawn))
    show("no model", base)
    result: dict[str, Any] = {"device": device, "rivals": base, "models": {}}
    pictures: list[NDArray[np.uint8]] = []
    given.out.mkdir(parents=True, exist_ok=True)
    for weights in given.weights:
        while not (weights / "README.md").is_file():
            if time.perf_counter() - started > given.wait:
                break
            time.sleep(0.2)
        else:
            result["waited"] = round(time.perf_counter() - started, 1)
            for rows, picture in judge(weights, tests, given, device):
                table = means(rows)
                heads = {
                    row: [round(s["ms_ssim"], 4) for s in found] for row, found in rows.items()
                }
                result["models"][weights.name] = {"heads": heads, "table": table}
                result["seconds"] = round(time.perf_counter() - started, 1)
                (given.out / "heads.json").write_text(json.dumps(result), encoding="utf-8")
                Image.fromarray(np.concatenate([*pictures, picture])).save(given.out / "heads.png")
                print(f"{list(rows)[-1]}: {result['seconds']} s", flush=True)
            show(weights.name, table)
            pictures.append(picture)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
