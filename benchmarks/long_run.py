"""A run of 100,000 volumes as far as its driver is concerned: planned, handed out, ended, rerun.

No volume is made: workers answer at once, and what they would have left behind (attempts, commit
records) is written by the engine's own types, without waiting for the disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from engine.errors import RunError
from engine.evaluation.values import VolumeMeasures
from engine.parallel.rows.pipeline import Pool, Row, run_rows
from engine.runs.jobs import generate, working
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.making.quality import QualityConfig
from engine.runs.planning.gate import GateConfig
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import read_identity
from engine.runs.record.plan import PlanRow, iter_plan
from engine.runs.record.records import Attempt, Commit
from engine.volumes.prepare_config import ABDOMEN_CT
from engine.volumes.prepared.manifest import PreparedEntry, PreparedManifest, write_manifest
from machine import own_peak_mb

_ROOT = Path(__file__).resolve().parents[1]
_REPLICAS = 100
_STEPS = ("plan", "finish", "resume")


def driver_figures(place: Path, num_rows: int, num_handed_out: int = 2000) -> dict[str, float]:
    """Peak memory of the driver and seconds of each start, each in a process of its own.

    Args:
        place: an empty folder.
        num_rows: of the plan, a multiple of 100.
        num_handed_out: rows that go through Ray before the bench ends the first start.

    Returns:
        `{step}_mb` and `{step}_s` of plan (and handing rows to workers through Ray), finish
        (summary and report of the finished run) and resume (finding nothing to do).
    """
    _write_data(place / "data", num_rows // _REPLICAS)
    figures: dict[str, float] = {}
    for step in _STEPS:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, step, str(place), str(num_handed_out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, (_ROOT, _ROOT / "benchmarks"))),
            },
            check=True,
            text=True,
        )
        figures[f"{step}_s"] = round(time.perf_counter() - started, 1)
        figures |= json.loads(done.stdout.splitlines()[-1])
        print(f"  {step}: {figures[f'{step}_s']} s, driver {figures[f'{step}_mb']} MB", flush=True)
        if step == "plan":
            _write_records(RunFolder(place / "run"))
    return figures


class AnsweringWorker:
    """Says at once that every row is committed."""

    def __init__(self, **_: Any) -> None:
        pass

    async def __call__(self, row: Row) -> AsyncIterator[Row]:
        """One status row."""
        name = PlanRow.model_validate_json(row["plan"]).sample_id
        yield {"sample_id": name, "status": "committed", "message": ""}


class EnoughError(RunError):
    """The bench has seen enough rows handed out."""


def _some_rows(
    limit: int,
    rows: Sequence[Row],
    worker: type[Callable[[Row], Any]],
    settings: Row,
    pool: Pool,
) -> Iterator[Row]:
    for number, status in enumerate(run_rows(rows, AnsweringWorker, {}, pool), start=1):
        yield status
        if number == min(limit, len(rows)):
            raise EnoughError("enough rows were handed out")


def _step(step: str, place: Path, num_handed_out: int) -> None:
    """One start of the job; prints its peak memory."""
    config = ResampleConfig(
        data=place / "data",
        weights=_ROOT / "weights" / "demo_abdomen",
        out=place / "run",
        replicas=_REPLICAS,
        gate=GateConfig(policy="off"),
        quality=QualityConfig(policy="off"),
        num_pictured=0,
        rows_at_once=8,
    )
    if step == "plan":
        with (
            patch.object(working, "run_rows", partial(_some_rows, num_handed_out)),
            patch.object(generate, "with_digests", lambda rows, *_: rows),  # there are no cases
        ):
            try:
                resample(config)
            except EnoughError:
                pass
            else:
                raise AssertionError("the job ended before the bench ended it")
    else:
        outcome = resample(config)
        assert outcome.worked == (step == "finish"), "a finished run found something to do"
        assert outcome.summary.failed == 0, outcome.summary.failed
    print(json.dumps({f"{step}_mb": own_peak_mb()}))


def _write_data(data: Path, num_cases: int) -> None:
    """The list of prepared cases; nobody reads the cases themselves."""
    data.mkdir()
    entry = PreparedEntry(
        dataset="many", split="train", sha256="0" * 64, size_zyx=(60, 128, 128), has_image=True,
        sources={"image": "0" * 64, "mask": "1" * 64},
    )  # fmt: skip
    cases = {
        f"case{n:05d}": entry.model_copy(update={"size_zyx": (20 + n % 90, 128, 128)})
        for n in range(num_cases)
    }
    names = ABDOMEN_CT.all_class_names
    write_manifest(data, PreparedManifest(config=ABDOMEN_CT, class_names=names, cases=cases))


def _write_records(folder: RunFolder) -> None:
    """Attempt and commit record of every row, as large as real ones."""
    names = ABDOMEN_CT.all_class_names
    quantiles = {name: tuple(float(v) for v in range(-100, 110, 10)) for name in names}
    means = dict.fromkeys(names, 101.25)
    single = {"seam_ratio": 1.01, "seam_ratio_real": 1.0, "roughness": 0.5, "roughness_real": 0.5}
    measures = VolumeMeasures.model_validate(
        {**single, "ms_ssim": 0.8, "unit": "HU", "class_means": means, "class_means_real": means,
         "class_quantiles": quantiles, "class_quantiles_real": quantiles}
    )  # fmt: skip
    files = ("zarr.json", "0/zarr.json", "0/c/0/0/0", "labels/mask/0/c/0/0/0", "header.nii.gz")
    identity = read_identity(folder.identity)
    for row in iter_plan(folder.plan):
        commit = Commit(
            sample_id=row.sample_id, case_id=row.case_id, informed_case=row.informed_case,
            informed_z=row.informed_z, target_z=row.informed_z, seed=row.seed, attempt=1,
            files=dict.fromkeys(files, "0" * 64), config_sha256=identity.settings_sha256,
            weights_sha256=identity.weights_sha256, row_sha256=row.sha256,
            num_windows=5, joins=(16, 28, 40, 52), size_zyx=(row.num_slices, 128, 128),
            timings_s={"read": 0.1, "sample": 9.0, "measure": 0.2, "write": 0.2},
            peak_memory_mb=900.0, measures=measures, committed_at=0.0,
        )  # fmt: skip
        attempt = Attempt(
            sample_id=row.sample_id, number=1, started_at=0.0, worker="bench:1",
            case_id=row.case_id, outcome="committed",
        )  # fmt: skip
        (folder.attempts / row.sample_id).mkdir(exist_ok=True)
        record = folder.attempts / row.sample_id / "0001.json"
        record.write_text(attempt.model_dump_json(), encoding="utf-8")
        folder.commit(row.sample_id).write_text(
            commit.sealed().model_dump_json(indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    # by its name, so that Ray's workers find the worker class where this file lies
    import long_run

    long_run._step(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
