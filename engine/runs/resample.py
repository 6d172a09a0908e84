"""The resampling job: new volumes for a data set's own masks (the paper's re-sampling).

Plan, workers, commits, summary, report, in one run folder that can be begun again at any time.
Knows no command line and no way to sample; `jobs/` calls it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from engine.config import FrozenConfig
from engine.errors import ConfigError, RunError, WeightsError
from engine.log import get_logger
from engine.runs import ledger
from engine.runs.demo_cohort import REMARKS, build_demo_cohort
from engine.runs.folder import RunFolder, RunLock, put
from engine.runs.identity import (
    RunIdentity,
    code_commit,
    code_versions,
    hash_weights,
    sha256_of,
    write_or_check,
)
from engine.runs.pipeline import choose_pool, node_resources, run_rows
from engine.runs.plan import CaseFacts, PlanRow, build_plan, read_plan, write_plan
from engine.runs.progress import ProgressWatch, Tally
from engine.runs.report import write_report
from engine.runs.session import RaySession
from engine.runs.summary import JobFacts, RunSummary, summarize
from engine.runs.worker import LoadSampler, ResampleWorker, WorkerTask, load_sampler, peak_memory_mb
from engine.sampling.config import SamplingConfig
from engine.volumes.manifest import PreparedManifest, read_manifest
from models.weights import WeightsFileError
from models.weights import read_manifest as read_weights_manifest

log = get_logger(__name__)

_CHECKOUT = Path(__file__).resolve().parents[2]


class ResampleConfig(FrozenConfig):
    """Settings of one resampling run.

    Attributes:
        data: folder of prepared cases; None makes the embedded demo cohort inside the run folder.
        weights: folder of the model.
        out: run folder. Relative places lie below the current directory (below GEM3D_RUNS, or
            `gem3d` in the home folder, when Ray runs the job in a temporary copy of the code).
        informed: "own": each mask's own middle slice; "cross": a slice of another case.
        cases: masks to resample, by case id; None is all.
        replicas: volumes a mask.
        seed: of all randomness.
        num_workers: processes that hold a model; None is one a GPU, else one a computer.
        num_pictured: volumes drawn in the report; its table holds all.
        sampling: how volumes are sampled.
    """

    data: Path | None = None
    weights: Path = Path("weights/demo_abdomen")
    out: Path = Path("runs/resample_abdomen")
    informed: Literal["own", "cross"] = "cross"
    cases: tuple[str, ...] | None = None
    replicas: int = Field(1, ge=1, le=10_000)
    seed: int = Field(0, ge=0, lt=2**63)
    num_workers: int | None = Field(None, ge=1)
    num_pictured: int = Field(24, ge=0)
    sampling: SamplingConfig = SamplingConfig()


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        summary: content of summary.json.
        report: the page to look at.
        worked: False when everything was there already.
    """

    summary: RunSummary
    report: Path
    worked: bool


def resample(config: ResampleConfig, load: LoadSampler = load_sampler) -> Outcome:
    """Run the job, or the rest of it.

    Args:
        config: settings.
        load: makes the model inside each worker.

    Raises:
        EngineError: the job is refused before work, or its workers cannot go on. Samples that fail
            do not raise: see `Outcome.summary.failed`.
    """
    started_s = time.monotonic()
    folder = RunFolder(run_place(config.out))
    weights = _find(config.weights, "weights", WeightsError)
    folder.create()
    with RunLock(folder), RaySession() as session:
        log.info("run folder %s", folder.root)
        if config.data is None:
            data = build_demo_cohort(folder.root / "cohort", session.start)
        else:
            data = _find(config.data, "data", ConfigError)
        manifest = read_manifest(data)
        identity = _identity(config, data, manifest, weights)
        _check_fit(config, data, manifest, weights)
        write_or_check(folder.identity, identity)
        rows = _plan(folder, config, manifest)
        barred, pending = _pending(folder, rows)
        if not pending and folder.report.exists() and folder.summary.exists():
            summary = RunSummary.model_validate_json(folder.summary.read_text(encoding="utf-8"))
            _say_nothing_to_do(folder, rows, barred)
            return Outcome(summary, folder.report, worked=False)
        if pending:
            session.start()
            task = WorkerTask(
                root=folder.root,
                data=data,
                weights=weights,
                sampling=config.sampling,
                settings_sha256=identity.settings_sha256,
                weights_sha256=identity.weights_sha256,
                code=identity.code,
                num_threads=1,
            )
            _work(folder, rows, pending, task, load, config.num_workers)
        remarks = REMARKS if config.data is None else {}
        return _finish(folder, data, identity, rows, started_s, config.num_pictured, remarks)


def run_place(out: Path) -> Path:
    """Absolute run folder.

    Ray runs a job that was submitted with `--working-dir` in a temporary copy of it; results must
    not vanish with that copy.
    """
    if out.is_absolute() or "runtime_resources" not in Path.cwd().parts:
        return out.absolute()
    return Path(os.environ.get("GEM3D_RUNS", Path.home() / "gem3d")).absolute() / out


def _find(path: Path, key: str, kind: type[ConfigError | WeightsError]) -> Path:
    """A folder as given, or below the code's checkout."""
    for place in (path.absolute(), _CHECKOUT / path):
        if place.is_dir():
            return place
    raise kind(f"{key}: {path} is not a folder; give an existing one with --{key}")


def _identity(
    config: ResampleConfig, data: Path, manifest: PreparedManifest, weights: Path
) -> RunIdentity:
    digest, files = hash_weights(weights)
    settings = config.model_dump(mode="json")
    machine = {key: settings.pop(key) for key in ("data", "weights", "out")}
    machine |= {key: settings.pop(key) for key in ("num_workers", "num_pictured")}
    machine["data"], machine["weights"] = str(data), str(weights)
    return RunIdentity(
        job="resample",
        settings=settings,
        weights_sha256=digest,
        weights=files,
        data={"prepared cases": sha256_of({i: c.sha256 for i, c in manifest.cases.items()})},
        machine=machine,
        versions=code_versions(),
        code=code_commit(),
    )


def _check_fit(
    config: ResampleConfig, data: Path, manifest: PreparedManifest, weights: Path
) -> None:
    """Classes, pixels and settings must be what the model can do."""
    try:
        model = read_weights_manifest(weights)
        config.sampling.resolved(model)
    except WeightsFileError as error:
        raise WeightsError(str(error)) from None
    size_yx = (model.preset.size_px, model.preset.size_px)
    if manifest.class_names != model.class_names or manifest.config.size_yx != size_yx:
        raise WeightsError(
            f"{data}: {', '.join(manifest.class_names)} on {manifest.config.size_yx} pixels do not "
            f"fit the weights {weights} ({', '.join(model.class_names)} on {size_yx}); prepare the "
            "data with the preset that the model was trained on, or give other --weights"
        )


def _plan(
    folder: RunFolder, config: ResampleConfig, manifest: PreparedManifest
) -> tuple[PlanRow, ...]:
    """The run's plan, made and written when it is not there yet."""
    if folder.plan.exists():
        return read_plan(folder.plan)
    names = manifest.case_ids()
    masks = names if config.cases is None else tuple(dict.fromkeys(config.cases))
    unknown = [name for name in masks if name not in names]
    if unknown or not masks:
        raise RunError(
            f"cases {unknown} are not in the prepared data; it holds {', '.join(names[:20])}"
        )
    facts = {i: CaseFacts(c.size_zyx[0], c.has_image) for i, c in manifest.cases.items()}
    rows = build_plan(facts, masks, config.informed, config.replicas, config.seed)
    write_plan(folder.plan, rows)
    return rows


def _pending(folder: RunFolder, rows: Sequence[PlanRow]) -> tuple[list[str], list[PlanRow]]:
    """Quarantined sample ids, and rows to work on: plan minus commits minus quarantine."""
    missing = [row for row in rows if ledger.read_commit(folder, row.sample_id) is None]
    ledger.mark_interrupted(folder, [row.sample_id for row in missing])
    ledger.clear_staging(folder)
    barred = [
        row.sample_id
        for row in missing
        if ledger.num_failures(folder, row.sample_id) >= ledger.MAX_FAILURES
    ]
    return barred, [row for row in missing if row.sample_id not in barred]


def _say_nothing_to_do(folder: RunFolder, rows: Sequence[PlanRow], barred: Sequence[str]) -> None:
    if barred:
        log.info(
            "nothing to do: %d of %d volumes exist, %d are quarantined (%s); see %s",
            len(rows) - len(barred), len(rows), len(barred), ", ".join(barred), folder.failures,
        )  # fmt: skip
    else:
        log.info("nothing to do: all %d volumes exist already", len(rows))


def _work(
    folder: RunFolder,
    rows: Sequence[PlanRow],
    pending: Sequence[PlanRow],
    task: WorkerTask,
    load: LoadSampler,
    num_workers: int | None,
) -> None:
    pool = choose_pool(num_workers, len(pending), node_resources())
    task = replace(task, num_threads=pool.num_threads)
    log.info("%d of %d volumes to make, %d worker(s)", len(pending), len(rows), pool.num_workers)
    tally = Tally(len(rows), len(rows) - len(pending), len(pending))
    plain = [row.model_dump(mode="json") for row in pending]
    with ProgressWatch(folder.progress, tally):
        for status in run_rows(plain, ResampleWorker, {"task": task, "load": load}, pool):
            if status["status"] != "committed":
                log.error("%s %s: %s", status["sample_id"], status["status"], status["message"])


def _finish(
    folder: RunFolder,
    data: Path,
    identity: RunIdentity,
    rows: Sequence[PlanRow],
    started_s: float,
    num_pictured: int,
    remarks: Mapping[str, str],
) -> Outcome:
    """Summary and report from what is committed now."""
    commits = ledger.read_commits(folder, [row.sample_id for row in rows])
    barred, _ = _pending(folder, rows)

    def summary_now() -> RunSummary:
        facts = JobFacts(time.monotonic() - started_s, peak_memory_mb(), len(barred))
        return summarize(rows, commits, facts)

    log.info("drawing the report")
    report = write_report(
        folder, data, identity, rows, commits, summary_now(), num_pictured, remarks
    )
    summary = summary_now()
    put(folder.summary, json.dumps(summary.model_dump(mode="json"), indent=1) + "\n")
    return Outcome(summary, report, worked=True)
