"""What every generating job does: plan, workers, commits, summary, report, in one run folder.

A job says what its cases are and which rows it wants (`Intent`); everything else is here, and the
same for all of them: the lock, the identity of the run, the plan written before any work, plan
minus commits minus quarantine, long volumes first. Knows no command line and no way to sample.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from engine.config import FrozenConfig
from engine.errors import EngineError, RunError, WeightsError
from engine.evaluation.expectations import CohortStatistics
from engine.log import get_logger
from engine.parallel.own_process import in_own_process
from engine.parallel.rows.pipeline import Row, choose_pool, node_resources, run_rows
from engine.parallel.start.session import RaySession
from engine.paths import READ, WRITTEN
from engine.runs.making.progress import ProgressWatch, Tally
from engine.runs.making.quality import QualityConfig, read_cohort
from engine.runs.making.rivals import MAX_TRAINING_CASES, LoadRival
from engine.runs.making.worker import (
    FullWorker,
    LoadSampler,
    ResampleWorker,
    WorkerTask,
    load_sampler,
    peak_memory_mb,
)
from engine.runs.planning.data_digests import with_digests
from engine.runs.planning.gate import GateConfig
from engine.runs.planning.inputs import (
    check_digests,
    check_fit,
    check_tensors,
    find_data,
    find_folder,
    refuse_inside,
    resolved_for,
    run_place,
)
from engine.runs.planning.method import (
    check_redrawn,
    method_title,
    redrawn_digest,
    training_cases,
)
from engine.runs.planning.precision import with_precision
from engine.runs.planning.rows import CaseFacts, stored_name
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_run
from engine.runs.record.identity import (
    RunIdentity,
    code_commit,
    code_versions,
    hash_weights,
    read_identity,
)
from engine.runs.record.names_only import names_only
from engine.runs.record.own_files import settle_identity, settle_plan
from engine.runs.record.plan import PlanRow, stored_at
from engine.runs.record.records import Commit
from engine.runs.record.status import RunState, active_rows, read_state
from engine.runs.record.withdrawal import read_withdrawn
from engine.runs.report.page import write_report
from engine.runs.report.summary import MAX_LISTED, JobFacts, RunSummary, summarize
from engine.sampling.config import SamplingConfig
from engine.sampling.rivals.methods import MethodName, rival_digest
from engine.storage.backends.find import storage_at
from engine.storage.checked_files import read_model
from engine.storage.files import PRIVATE_UMASK, gather, put, whole_file
from engine.storage.locks.lock_at import Lock
from engine.storage.places import Place, PlaceField
from engine.volumes.layouts import Split
from engine.volumes.prepared.manifest import PreparedManifest

log = get_logger(__name__)

_PLACES = ("data", "weights", "out", "redrawn")
# absent at their default: older runs have none
_LATER: dict[str, Any] = {
    "splits": ["train"], "informed_splits": ["train"], "method": "model", "redrawn": None
}  # fmt: skip
_MACHINE = ("num_workers", "rows_at_once", "num_pictured", "stall_timeout", "private")


class GenerationConfig(FrozenConfig):
    """Settings of every generating job.

    Attributes:
        weights: folder of the model.
        out: run folder, or an address such as s3://BUCKET/NAME. Relative places lie below the
            current directory (below GEM3D_RUNS, or `gem3d` in the home folder, when Ray runs the
            job in a temporary copy of the code).
        seed: of all randomness.
        num_workers: processes that hold a model; None is one a GPU, else one a computer.
        rows_at_once: volumes in a worker at once, in any stage; more keep its batch full and cost
            memory. None is 8 on a GPU, else 2.
        num_pictured: volumes drawn in the report; its table holds the first thousand.
        stall_timeout: seconds after which a worker that makes no step (a window, a read, a write)
            is ended, and its volumes move to another; give more than the slowest window takes. None
            only names such a worker.
        private: whether only you may read the run's files (modes 0600 and 0700).
        method: "model", or a rival that needs no weights, to compare with: "painting" (each class
            has its mean in the informed slice), "atlas" (mean of the training cases), "copy" (of
            the slice), "identity", "quantiles" (matched to the slice, by class), "redrawn".
        redrawn: for "redrawn": prepared cases of the same names with another draw of texture and
            noise.
        sampling: how volumes are sampled.
        splits: cases of these are sampled where none are named: "train", "test". Test masks stay
            test masks in an export.
        informed_splits: cases of these lend their appearance, and say what real volumes are like.
        gate: what is done about informed slices that do not fit the mask.
        quality: what a volume must be like.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    weights: Annotated[Path, READ] = Path("weights/demo_abdomen")
    out: Annotated[PlaceField, WRITTEN] = Path("runs/generated")
    seed: int = Field(0, ge=0, lt=2**63)
    num_workers: int | None = Field(None, ge=1)
    rows_at_once: int | None = Field(None, ge=1, le=64)
    num_pictured: int = Field(24, ge=0, le=MAX_LISTED)
    stall_timeout: float | None = Field(None, ge=10)
    private: bool = False
    method: MethodName = "model"
    redrawn: Annotated[PlaceField, READ] | None = None
    splits: tuple[Split, ...] = Field(("train",), min_length=1)
    informed_splits: tuple[Split, ...] = Field(("train",), min_length=1)
    sampling: SamplingConfig = SamplingConfig()
    gate: GateConfig = GateConfig()
    quality: QualityConfig = QualityConfig()

    @model_validator(mode="after")
    def _redrawn_has_data(self) -> Self:
        if (self.method == "redrawn") != (self.redrawn is not None):
            raise ValueError("method redrawn and redrawn belong together: give both or neither")
        return self


@dataclass(frozen=True)
class Intent:
    """What one job wants to make.

    Attributes:
        job: its name, for run.yaml.
        title: of the report.
        data: folder that the cases' sources are relative to.
        manifests: of the prepared data sets, by the folder that they lie in.
        facts: every case, by the name that plan rows use.
        data_sha256: of what describes the data, for run.yaml.
        rows: makes the plan's rows.
        machine: settings that do not change the volumes, beside the usual ones.
        remarks: what else a reader of the report should know of a case.
    """

    job: str
    title: str
    data: Place
    manifests: Mapping[Place, PreparedManifest]
    facts: Mapping[str, CaseFacts]
    data_sha256: dict[str, str]
    rows: Callable[[], Iterable[PlanRow]]
    machine: tuple[str, ...] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        summary: content of summary.json.
        report: the page to look at.
        worked: False when everything was there already.
    """

    summary: RunSummary
    report: Place
    worked: bool


Prepare = Callable[[RunFolder, RaySession], Intent]
AfterReport = Callable[[RunFolder, Intent], None]


def generate(
    config: GenerationConfig,
    prepare: Prepare,
    load: LoadSampler = load_sampler,
    after: AfterReport | None = None,
) -> Outcome:
    """Run a job, or the rest of it.

    Args:
        config: its settings.
        prepare: reads the data and says what is wanted; called under the run's lock.
        load: makes the model inside each worker.
        after: adds to the report what only this job has to say.

    Raises:
        EngineError: the job is refused before work, or its workers cannot go on. Samples that fail
            do not raise: see `Outcome.summary.failed`.
    """
    started_s = time.monotonic()
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
        intent = prepare(folder, session)
        sampling = config.sampling
        if is_model:
            sampling = with_precision(resolved_for(sampling, weights), folder, session)
            check_fit(intent.manifests, weights)
        else:
            load = _rival(config, intent, folder)
        identity = _identity(config, intent, weights, sampling)
        if is_model and not folder.identity.exists():  # else the same files were checked then
            in_own_process(check_tensors, weights)
            check_digests(weights, identity.weights)
        settle_identity(folder, identity)
        kept = read_identity(folder.identity).settings  # of a run that still holds whole paths
        identity = identity.model_copy(update={"settings": kept})
        settle_plan(folder, lambda: with_digests(intent.rows(), folder.root, intent.data))
        state = read_state(folder)
        earlier = _earlier_summary(folder)
        if not state.pending and folder.report.exists() and earlier is not None:
            _say_nothing_to_do(folder, state)
            return Outcome(earlier, folder.report, worked=False)
        if state.pending:
            session.start()
            task = _task(config, folder, intent, identity, weights, sampling)
            _work(folder, state, task, load, config, lock)
        try:
            _cohort(folder, intent, config.quality, config.informed_splits)
            return _finish(folder, intent, identity, config, started_s, after)
        except EngineError:
            raise  # says itself what to do
        except OSError as error:
            raise RunError(
                f"{folder.root}: the report cannot be written ({error.strerror or error}); what is "
                "committed stays: free space, or make the folder writable, and start the job again"
            ) from error


def _identity(
    config: GenerationConfig, intent: Intent, weights: Path, sampling: SamplingConfig
) -> RunIdentity:
    is_model = config.method == "model"
    digest, files = hash_weights(weights) if is_model else (rival_digest(config.method), {})
    settings = config.model_dump(mode="json")
    settings["sampling"] = sampling.model_dump(mode="json")
    for key, usual in _LATER.items():
        if settings[key] == usual:
            del settings[key]
    places = {key: settings.pop(key) for key in (*_PLACES, *intent.machine) if key in settings}
    machine = {**places, **{key: settings.pop(key) for key in _MACHINE}}
    machine["data"], machine["weights"] = str(intent.data), str(weights)
    settings, machine = names_only(settings), names_only(machine)
    return RunIdentity(
        job=intent.job,
        settings=settings,
        weights_sha256=digest,
        weights=files,
        data={**intent.data_sha256, **redrawn_digest(config.redrawn)},
        machine=machine,
        versions=code_versions(),
        code=code_commit(),
    )


def _rival(config: GenerationConfig, intent: Intent, folder: RunFolder) -> LoadRival:
    """What workers load where no model is asked for."""
    redrawn = None if config.redrawn is None else find_data(config.redrawn, "redrawn")
    if redrawn is not None:
        check_redrawn(redrawn, intent.manifests)
    names = training_cases(
        intent.facts, config.informed_splits, read_withdrawn(folder), MAX_TRAINING_CASES
    )
    patients = {name: fact.patient or name for name, fact in intent.facts.items()}
    places = [stored_at(folder.root, intent.data, stored_name(intent.facts, n)) for n in names]
    training = tuple(zip((patients[n] for n in names), places, strict=True))
    manifest = next(iter(intent.manifests.values()))
    num_classes = len(manifest.class_names)
    contour = 0 if manifest.config.contour == "none" else num_classes
    return LoadRival(config.method, training, patients, num_classes, contour, redrawn)


def _task(
    config: GenerationConfig,
    folder: RunFolder,
    intent: Intent,
    identity: RunIdentity,
    weights: Path,
    sampling: SamplingConfig,
) -> WorkerTask:
    return WorkerTask(
        root=folder.root,
        data=intent.data,
        weights=weights,
        sampling=sampling,
        settings_sha256=identity.settings_sha256,
        weights_sha256=identity.weights_sha256,
        code=identity.code,
        private=config.private,
        num_threads=1,
        quality=config.quality,
        cohort=_cohort(folder, intent, config.quality, config.informed_splits),
        gate=config.gate,
    )


def _cohort(
    folder: RunFolder, intent: Intent, config: QualityConfig, splits: tuple[Split, ...]
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
        stored_at(folder.root, intent.data, stored_name(intent.facts, name))
        for name, facts in intent.facts.items()
        if facts.has_image and facts.split in splits and name not in gone
    )
    cohort = read_cohort(sources, config.cohort_cases)
    put(folder.cohort, cohort.model_dump_json(indent=1) + "\n")
    return cohort


def _earlier_summary(folder: RunFolder) -> RunSummary | None:
    """What the last job wrote; one that is damaged is written anew."""
    try:
        return read_model(RunSummary, folder.summary)
    except (FileNotFoundError, ValueError):
        return None


def _say_nothing_to_do(folder: RunFolder, state: RunState) -> None:
    if state.barred:
        log.info(
            "nothing to do: %d of %d volumes exist, %d are quarantined (%s); see %s",
            state.committed, state.planned, len(state.barred),
            ", ".join(state.barred[:20]), folder.failures,
        )  # fmt: skip
    else:
        log.info("nothing to do: all %d volumes exist already", state.planned)


def _work(
    folder: RunFolder,
    state: RunState,
    task: WorkerTask,
    load: LoadSampler,
    config: GenerationConfig,
    lock: Lock,
) -> None:
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


def _finish(
    folder: RunFolder,
    intent: Intent,
    identity: RunIdentity,
    config: GenerationConfig,
    started_s: float,
    after: AfterReport | None,
) -> Outcome:
    """Summary and report from what is committed now."""
    gather(folder.failures)
    state = read_state(folder)

    def pairs() -> Iterator[tuple[PlanRow, Commit | None]]:
        for row in active_rows(folder):
            yield row, ledger.read_commit(folder, row.sample_id)

    log.info("drawing the report")
    facts = JobFacts(
        time.monotonic() - started_s,
        peak_memory_mb(),
        len(state.barred),
        state.skipped,
        state.withdrawn,
    )
    with whole_file(folder.table) as file:
        summary = summarize(pairs, facts, lambda v: print(v.model_dump_json(), file=file))
    title = method_title(intent.title, config.method)
    report = write_report(
        folder, intent.data, identity, summary, config.num_pictured, intent.remarks, title
    )
    if after is not None:
        after(folder, intent)
    memory_mb = {**summary.peak_memory_mb, "driver": peak_memory_mb()}
    wall_s = round(time.monotonic() - started_s, 1)
    summary = summary.model_copy(update={"wall_s": wall_s, "peak_memory_mb": memory_mb})
    put(folder.summary, json.dumps(summary.model_dump(mode="json"), indent=1) + "\n")
    return Outcome(summary, report, worked=True)
