"""The middle of a generating job: what its workers share, and the pool that makes the volumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.evaluation.expectations import CohortStatistics
from engine.log import get_logger
from engine.parallel.rows.pipeline import Row, choose_pool, node_resources, run_rows
from engine.runs.jobs.job import JobCases
from engine.runs.jobs.settings import GenerationConfig
from engine.runs.making.progress import ProgressWatch, Tally
from engine.runs.making.quality import QualityConfig, read_cohort
from engine.runs.making.rivals import MAX_TRAINING_CASES, LoadRival
from engine.runs.making.worker import FullWorker, LoadSampler, ResampleWorker, WorkerTask
from engine.runs.planning.inputs import find_data
from engine.runs.planning.method import check_redrawn, training_cases
from engine.runs.planning.rows import stored_name
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import RunIdentity
from engine.runs.record.plan import stored_at
from engine.runs.record.status import RunState
from engine.runs.record.withdrawal import read_withdrawn
from engine.sampling.config import SamplingConfig
from engine.storage.backends.find import storage_at
from engine.storage.checked_files import read_model
from engine.storage.files import put
from engine.storage.locks.lock import Lock
from engine.volumes.layouts import Split

log = get_logger(__name__)


def rival_sampler(config: GenerationConfig, cases: JobCases, folder: RunFolder) -> LoadRival:
    """What workers load where no model is asked for."""
    redrawn = None if config.redrawn is None else find_data(config.redrawn, "redrawn")
    if redrawn is not None:
        check_redrawn(redrawn, cases.manifests)
    names = training_cases(
        cases.facts, config.informed_splits, read_withdrawn(folder), MAX_TRAINING_CASES
    )
    patients = {name: fact.patient or name for name, fact in cases.facts.items()}
    places = [stored_at(folder.root, cases.data, stored_name(cases.facts, n)) for n in names]
    training = tuple(zip((patients[n] for n in names), places, strict=True))
    manifest = cases.manifest
    num_classes = len(manifest.class_names)
    contour = 0 if manifest.config.contour == "none" else num_classes
    return LoadRival(config.method, training, patients, num_classes, contour, redrawn)


def worker_task(
    config: GenerationConfig,
    folder: RunFolder,
    cases: JobCases,
    identity: RunIdentity,
    weights: Path,
    sampling: SamplingConfig,
) -> WorkerTask:
    """What all workers of the job share."""
    return WorkerTask(
        root=folder.root,
        data=cases.data,
        weights=weights,
        sampling=sampling,
        settings_sha256=identity.settings_sha256,
        weights_sha256=identity.weights_sha256,
        code=identity.code,
        private=config.private,
        num_threads=1,
        quality=config.quality,
        cohort=cohort_of(folder, cases, config.quality, config.informed_splits),
        gate=config.gate,
        stored=config.stored,
    )


def cohort_of(
    folder: RunFolder, cases: JobCases, config: QualityConfig, splits: tuple[Split, ...]
) -> CohortStatistics:
    """What the cohort is like: looked at once, then kept in the run folder."""
    if config.policy == "off":
        return CohortStatistics()
    if folder.cohort.exists():
        try:
            return read_model(CohortStatistics, folder.cohort)
        except ValueError:
            log.warning("%s: damaged; looking at the cohort again", folder.cohort)
    gone = read_withdrawn(folder)
    sources = (
        stored_at(folder.root, cases.data, stored_name(cases.facts, name))
        for name, facts in cases.facts.items()
        if facts.has_image and facts.split in splits and name not in gone
    )
    cohort = read_cohort(sources, config.cohort_cases)
    put(folder.cohort, cohort.model_dump_json(indent=1) + "\n")
    return cohort


def make_volumes(
    folder: RunFolder,
    state: RunState,
    task: WorkerTask,
    load: LoadSampler,
    config: GenerationConfig,
    lock: Lock,
) -> None:
    """Have the pending volumes made, in as many workers as there is room for.

    Raises:
        EngineError: the workers cannot go on, or another job took the run over.
    """
    num_pending = len(state.pending)
    pool = choose_pool(config.num_workers, num_pending, node_resources(), config.rows_at_once)
    task = replace(
        task, num_threads=pool.num_threads, rows_at_once=pool.rows_at_once, lock=lock.number
    )
    log.info("%d of %d volumes to make, %d worker(s)", num_pending, state.planned, pool.num_workers)
    tally = Tally(state.planned, state.committed, num_pending)
    worker: type[Any] = FullWorker if pool.rows_at_once > 1 else ResampleWorker
    rows: list[Row] = [{"plan": text} for _, _, text in state.pending]
    disk = storage_at(folder.staging).local
    pool = replace(pool, disk=disk, stall_timeout_s=config.stall_timeout, private=config.private)
    with ProgressWatch(folder.progress, tally) as watch:
        for status in run_rows(rows, worker, {"task": task, "load": load}, pool):
            lock.check()
            watch.ended(status["sample_id"], status["status"])
            if status["status"] != "committed":
                log.error("%s %s: %s", status["sample_id"], status["status"], status["message"])
