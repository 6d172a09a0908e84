"""The same phantom sampled three ways: by one worker, by two, and in a plain loop without a run."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from engine.runs import generate, ledger
from engine.runs.aside import aside
from engine.runs.folder import RunFolder
from engine.runs.pipeline import Pool
from engine.runs.plan import iter_plan, write_plan
from engine.runs.resample import ResampleConfig, resample
from engine.sampling.config import SamplingConfig
from engine.volumes.cohort import prepared_phantom
from engine.volumes.manifest import PreparedEntry, PreparedManifest, write_manifest
from engine.volumes.prepare_config import ABDOMEN_CT
from engine.volumes.prepared_store import write_prepared

_FIRST_PHANTOM = 1000  # never trained on
Run = tuple[float, dict[str, float]]
"""Seconds of a run's workers, and the sums of its stages."""


def real_figures(
    place: Path, weights: Path, num_volumes: int, num_steps: int | None, rounds: int
) -> dict[str, Any]:
    """Efficiency of two workers, and what the run adds to sampling.

    Seconds of a run are its workers', each from its first volume's start to the run's last commit,
    and those of planning; starting Ray and loading the model are left out, here and in the plain
    loop. All three ways take turns, and the fastest round of each counts, because other work on the
    machine only ever adds. `machinery_share` is what of one worker's seconds is neither sampling
    nor measuring (plan, read, hash, write, commit, and waiting for Ray), `measuring_share` the
    proof of each volume, both relative to sampling; `overhead_share` is the whole difference to the
    plain loop.

    Args:
        place: an empty folder.
        weights: of the model.
        num_volumes: replicas of one phantom: all of one length, shared evenly by two workers.
        num_steps: denoising steps, or the weights' own.
        rounds: turns.
    """
    _write_data(place / "data")
    sampling = SamplingConfig(num_inference_steps=num_steps, decode_beside=False)
    config = ResampleConfig(
        data=place / "data", weights=weights, informed=("own",), replicas=num_volumes,
        num_pictured=0, sampling=sampling,
    )  # fmt: skip
    plain: list[float] = []
    ones: list[Run] = []
    twos: list[Run] = []
    for turn in range(rounds):
        plain.append(aside(sample_plainly, place / "data", weights, sampling, num_volumes))
        for num_workers, results in ((1, ones), (2, twos)):
            out = place / f"{num_workers}-{turn}"
            results.append(_run_s(config.model_copy(update={"out": out}), num_workers))
        told = f"one worker {ones[-1][0]:.1f} s, two together {twos[-1][0]:.1f} s"
        print(f"  plain {plain[-1]:.1f} s, {told}", flush=True)
    plain_s, (two_s, _) = min(plain), min(twos, key=_seconds)
    one_s, stages = min(ones, key=_seconds)
    rest_s = one_s - stages["sample"] - stages["measure"]
    return {
        "efficiency": round(one_s / two_s, 4),
        "machinery_share": round(rest_s / plain_s, 4),
        "measuring_share": round(stages["measure"] / plain_s, 4),
        "overhead_share": round((one_s - plain_s) / plain_s, 4),
        "plain_s": [round(s, 2) for s in plain],
        "one_worker_s": [round(s, 2) for s, _ in ones],
        "two_workers_sum_s": [round(s, 2) for s, _ in twos],
        "one_worker_stages_s": stages,
    }


def _seconds(run: Run) -> float:
    return run[0]


def sample_plainly(data: Path, weights: Path, sampling: SamplingConfig, num_volumes: int) -> float:
    """Seconds that the sampler itself takes for the same volumes, with one thread."""
    import torch

    from engine.sampling.request import SampleRequest
    from engine.sampling.sampler import Sampler
    from engine.volumes.prepared_store import read_prepared

    torch.set_num_threads(1)
    sampler = Sampler.load(weights, sampling)
    (path,) = data.glob("*.zarr")
    request = SampleRequest.own(read_prepared(path), 0)
    started = time.perf_counter()
    for _ in range(num_volumes):
        sampler.sample(request)
    return time.perf_counter() - started


def _run_s(config: ResampleConfig, num_workers: int) -> tuple[float, dict[str, float]]:
    """Seconds of a run's workers and of planning, and the sums of its stages."""

    def pool(*_: object) -> Pool:
        return Pool(num_workers, 0.4, 0.0, 1)

    folder = RunFolder(config.out)
    planned: list[float] = []

    def timed(path: Path, rows: Any) -> int:
        started = time.perf_counter()
        count = write_plan(path, rows)
        planned.append(time.perf_counter() - started)
        return count

    with patch.object(generate, "choose_pool", pool), patch.object(generate, "write_plan", timed):
        outcome = resample(config)
    assert outcome.summary.failed == 0, "a volume failed"
    return _worker_seconds(folder) + planned[0], _stages(folder)


def _worker_seconds(folder: RunFolder) -> float:
    """From each worker's first attempt to the run's last commit, summed: idle at the end counts."""
    began: dict[str, float] = {}
    ended = 0.0
    for row in iter_plan(folder.plan):
        commit = ledger.read_commit(folder, row.sample_id)
        ended = max(ended, commit.committed_at if commit else 0.0)
        for attempt in ledger.read_attempts(folder, row.sample_id):
            began[attempt.worker] = min(attempt.started_at, began.get(attempt.worker, math.inf))
    return sum(ended - start for start in began.values())


def _stages(folder: RunFolder) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in iter_plan(folder.plan):
        commit = ledger.read_commit(folder, row.sample_id)
        for stage, seconds in commit.timings_s.items() if commit else ():
            sums[stage] = round(sums.get(stage, 0.0) + seconds, 3)
    return sums


def _write_data(data: Path) -> None:
    case = prepared_phantom(_FIRST_PHANTOM)
    write_prepared(data / f"{case.case_id}.zarr", case)
    entry = PreparedEntry(
        dataset="phantoms", split="test", sha256="0" * 64, size_zyx=case.size_zyx, has_image=True,
        sources={},
    )  # fmt: skip
    names = ABDOMEN_CT.all_class_names
    cases = {case.case_id: entry}
    write_manifest(data, PreparedManifest(config=ABDOMEN_CT, class_names=names, cases=cases))
