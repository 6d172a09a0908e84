"""The same phantom sampled three ways: by one worker, by two, and in a plain loop without a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from engine.parallel.own_process import in_own_process
from engine.parallel.rows.pipeline import Pool
from engine.runs.jobs import generate, working
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.own_files import Rows, settle_plan
from engine.runs.record.plan import iter_plan
from engine.runs.record.records import Commit
from engine.sampling.config import SamplingConfig
from engine.volumes.phantoms.cohort import prepared_phantom
from engine.volumes.prepare_config import ABDOMEN_CT
from engine.volumes.prepared.manifest import PreparedEntry, PreparedManifest, write_manifest
from engine.volumes.prepared.store import write_prepared

_FIRST_PHANTOM = 1000  # never trained on


@dataclass(frozen=True)
class Run:
    """What a volume costs one worker.

    Attributes:
        seconds: from one start to the next, planning and idle time at the end included.
        stages: parts of it, as the commit records say.
    """

    seconds: float
    stages: dict[str, float]


def real_figures(
    place: Path, weights: Path, num_volumes: int, num_steps: int | None, rounds: int
) -> dict[str, Any]:
    """Efficiency of two workers, and what the run adds to sampling.

    All figures are seconds a volume of one worker (`Run`). Each worker's first volume does not
    count, nor does the plain loop's: Ray's own processes start while it is made. All three ways
    take turns, and the fastest round of each counts, because other work on the machine only ever
    adds. `machinery_share` is what is neither sampling nor measuring (plan, read, hash, write,
    commit, and waiting for Ray), `measuring_share` the proof of each volume, both relative to
    sampling in the plain loop; `overhead_share` is the whole difference to it.

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
    runs: dict[int, list[Run]] = {1: [], 2: []}
    for turn in range(rounds):
        plain.append(in_own_process(sample_plainly, place / "data", weights, sampling, num_volumes))
        for num_workers, made in runs.items():
            out = place / f"{num_workers}-{turn}"
            made.append(_run(config.model_copy(update={"out": out}), num_workers))
        told = ", ".join(f"{n} worker(s) {made[-1].seconds:.2f} s" for n, made in runs.items())
        print(f"  a volume: plain {plain[-1]:.2f} s, {told}", flush=True)
    plain_s, one, two = min(plain), _fastest(runs[1]), _fastest(runs[2])
    rest_s = one.seconds - one.stages["sample"] - one.stages["measure"]
    return {
        "efficiency": round(one.seconds / two.seconds, 4),
        "machinery_share": round(rest_s / plain_s, 4),
        "measuring_share": round(one.stages["measure"] / plain_s, 4),
        "overhead_share": round((one.seconds - plain_s) / plain_s, 4),
        "volumes": num_volumes,
        "plain_s": [round(s, 3) for s in plain],
        "one_worker_s": [round(run.seconds, 3) for run in runs[1]],
        "two_workers_s": [round(run.seconds, 3) for run in runs[2]],
        "one_worker_stages_s": {name: round(s, 4) for name, s in one.stages.items()},
    }


def _fastest(runs: Sequence[Run]) -> Run:
    return min(runs, key=lambda run: run.seconds)


def sample_plainly(data: Path, weights: Path, sampling: SamplingConfig, num_volumes: int) -> float:
    """Seconds that the sampler itself takes for one of the volumes, with one thread."""
    import torch

    from engine.sampling.request import SampleRequest
    from engine.sampling.sampler import Sampler
    from engine.volumes.prepared.store import read_prepared

    torch.set_num_threads(1)
    sampler = Sampler.load(weights, sampling)
    (path,) = data.glob("*.zarr")
    request = SampleRequest.own(read_prepared(path), 0)
    sampler.sample(request)
    started = time.perf_counter()
    for _ in range(num_volumes - 1):
        sampler.sample(request)
    return (time.perf_counter() - started) / (num_volumes - 1)


def _run(config: ResampleConfig, num_workers: int) -> Run:
    """A whole run of the job."""

    def pool(*_: object) -> Pool:
        return Pool(num_workers, 0.4, 0.0, 1)

    folder = RunFolder(config.out)
    planned: list[float] = []

    def timed(folder: RunFolder, rows: Rows) -> None:
        started = time.perf_counter()
        settle_plan(folder, rows)
        planned.append(time.perf_counter() - started)

    with patch.object(working, "choose_pool", pool), patch.object(generate, "settle_plan", timed):
        outcome = resample(config)
    assert outcome.summary.failed == 0, "a volume failed"
    return _cost(folder, planned[0] / config.replicas)


def _cost(folder: RunFolder, planning_s: float) -> Run:
    """From each worker's second start to the run's last commit, over the volumes of that time."""
    starts: dict[str, list[float]] = {}
    commits: list[tuple[str, float, Commit]] = []
    for row in iter_plan(folder.plan):
        commit = ledger.read_commit(folder, row.sample_id)
        (attempt,) = ledger.read_attempts(folder, row.sample_id)
        assert commit is not None
        starts.setdefault(attempt.worker, []).append(attempt.started_at)
        commits.append((attempt.worker, attempt.started_at, commit))
    ended = max(commit.committed_at for *_, commit in commits)
    counted = [commit for worker, at, commit in commits if at > min(starts[worker])]
    worker_s = sum(ended - sorted(times)[1] for times in starts.values())
    stages: dict[str, float] = {}
    for commit in counted:
        for stage, seconds in commit.timings_s.items():
            stages[stage] = stages.get(stage, 0.0) + seconds / len(counted)
    return Run(worker_s / len(counted) + planning_s, stages)


def _write_data(data: Path) -> None:
    case = prepared_phantom(_FIRST_PHANTOM)
    write_prepared(data / f"{case.case_id}.zarr", case)
    entry = PreparedEntry(
        dataset="phantoms", split="train", sha256="0" * 64, size_zyx=case.size_zyx, has_image=True,
        sources={},
    )  # fmt: skip
    names = ABDOMEN_CT.all_class_names
    cases = {case.case_id: entry}
    write_manifest(data, PreparedManifest(config=ABDOMEN_CT, class_names=names, cases=cases))
