"""What every generating job does: plan, workers, commits, summary, report, in one run folder.

A job says what its cases are and which rows it wants (`job.py`); everything else is here, in
`working.py` and in `finishing.py`, and the same for all of them: the lock, the identity of the run,
the plan written before any work, plan minus commits minus quarantine, long volumes first. Knows no
command line and no way to sample.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from engine.errors import RunError, WeightsError, os_refusal
from engine.log import get_logger
from engine.parallel.start.session import RaySession
from engine.runs.jobs.finishing import earlier_summary, finish, log_nothing_to_do
from engine.runs.jobs.job import Job, JobCases, Outcome
from engine.runs.jobs.settings import run_identity
from engine.runs.jobs.working import cohort_of, make_volumes, rival_sampler, worker_task
from engine.runs.making.worker import LoadSampler, load_sampler
from engine.runs.planning.data_digests import with_digests
from engine.runs.planning.inputs import (
    check_digests,
    check_fit,
    find_folder,
    refuse_inside,
    resolved_for,
    run_place,
)
from engine.runs.planning.precision import ModelLook, with_precision
from engine.runs.record.folder import RunFolder, lock_run
from engine.runs.record.identity import RunIdentity, read_identity
from engine.runs.record.own_files import settle_identity, settle_plan
from engine.runs.record.status import read_state
from engine.sampling.config import SamplingConfig
from engine.storage.files import PRIVATE_UMASK

log = get_logger(__name__)


def generate(job: Job, load: LoadSampler = load_sampler) -> Outcome:
    """Run a job, or the rest of it.

    Args:
        job: what it wants to make.
        load: makes the model inside each worker.

    Raises:
        EngineError: the job is refused before work, or its workers cannot go on. Samples that fail
            do not raise: see `Outcome.summary.failed`.
    """
    started_s = time.monotonic()
    config = job.config
    folder = RunFolder(run_place(config.out))
    is_model = config.method == "model"
    weights = Path(config.method)  # a rival has none
    if is_model:
        weights = find_folder(config.weights, "weights", WeightsError)
        refuse_inside(folder.root, [weights])
    if config.private:
        os.umask(PRIVATE_UMASK)
    folder.create()
    with lock_run(folder) as lock, RaySession() as session:
        log.info("run folder %s", folder.root)
        cases = job.cases(folder, session)
        planned = _plan(job, folder, cases, weights, session)
        state = read_state(folder)
        earlier = earlier_summary(folder)
        if not state.pending and folder.report.exists() and earlier is not None:
            log_nothing_to_do(folder, state)
            return Outcome(earlier, folder.report, worked=False)
        if state.pending:
            session.start()
            task = worker_task(config, folder, cases, planned.identity, weights, planned.sampling)
            if not is_model:
                load = rival_sampler(config, cases, folder)
            make_volumes(folder, state, task, load, config, lock)
        remedy = (
            "what is committed stays: free space, or make the folder writable, and start the job "
            "again"
        )
        with os_refusal(RunError, f"{folder.root}: the report cannot be written", remedy):
            cohort_of(folder, cases, config.quality, config.informed_splits)
            return finish(job, folder, cases, planned.identity, started_s)


@dataclass(frozen=True)
class _Planned:
    identity: RunIdentity
    sampling: SamplingConfig


def _plan(
    job: Job, folder: RunFolder, cases: JobCases, weights: Path, session: RaySession
) -> _Planned:
    """Write what the run is and its plan, or find that they are what was written."""
    config, sampling = job.config, job.config.sampling
    is_new = not folder.identity.exists()  # else it names the same files, which were checked then
    if config.method == "model":
        look = ModelLook(weights, checks=is_new)
        sampling = with_precision(resolved_for(sampling, weights), folder, session, look)
        check_fit(cases.manifests, weights)
    else:
        rival_sampler(config, cases, folder)  # refused early
    identity = run_identity(
        config, job.name, cases.data, cases.data_sha256, weights, sampling, job.machine_settings
    )
    if config.method == "model" and is_new:
        look.finish()
        check_digests(weights, identity.weights)
    settle_identity(folder, identity)
    kept = read_identity(folder.identity).settings  # of a run that still holds whole paths
    identity = identity.model_copy(update={"settings": kept})
    settle_plan(folder, lambda: with_digests(job.rows(folder, cases), folder.root, cases.data))
    return _Planned(identity, sampling)
