"""The evaluation job: a finished run beside real cases and rivals, by all measures, over Ray.

Rows go to workers (`engine.runs.evaluating.worker`); here they are planned, gathered and written.
Knows no command line and measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.errors import ConfigError, RunError
from engine.log import get_logger
from engine.parallel.own_process import in_own_process
from engine.parallel.rows.pipeline import choose_pool, node_resources, run_rows
from engine.parallel.start.session import RaySession
from engine.runs.audit.verify import open_run
from engine.runs.evaluating.near_copies import replicas_of
from engine.runs.evaluating.plots import draw_tables
from engine.runs.evaluating.populations import Populations
from engine.runs.evaluating.reading import OWN_ROW
from engine.runs.evaluating.settings import EvaluateJob
from engine.runs.evaluating.tables import (
    distribution_table,
    diversity_table,
    measure_tables,
)
from engine.runs.evaluating.worker import EvaluateTask, EvaluateWorker, Row, unpacked
from engine.runs.making.rivals import MAX_TRAINING_CASES, LoadRival
from engine.runs.planning.inputs import case_facts, find_data
from engine.runs.planning.method import check_redrawn, training_cases
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_run
from engine.runs.record.own_files import check_run
from engine.runs.record.patients import patient_namer
from engine.runs.record.plan import PlanRow
from engine.runs.record.status import active_rows
from engine.runs.record.withdrawal import read_withdrawn
from engine.runs.report.evaluation import METRICS, PLOT, Metrics, put_on_page
from engine.sampling.rivals.methods import RIVALS
from engine.storage.digests import sha256_of
from engine.storage.files import put
from engine.storage.places import Place
from engine.volumes.prepared.manifest import PreparedManifest, read_manifest
from engine.volumes.prepared.store import read_prepared_header

log = get_logger(__name__)

_MOST_REPLICAS = 4  # of one mask, read together
_SAY_EVERY = 10


@dataclass
class _Found:
    """What the workers told so far."""

    samples: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    replicas: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: dict[str, dict[str, Any]] = field(default_factory=dict)
    protocols: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def evaluate_run(job: EvaluateJob) -> tuple[Metrics, Place]:
    """Evaluate a run; writes metrics.json and its plot, and puts a section on the run's page.

    Returns:
        What was found, and where it was written.

    Raises:
        ConfigError: no run or no real cases, or ones that the run was not made from.
        RunError: the run has no volumes, or another job works there.
        EngineError: the run is damaged, or its workers cannot go on.
    """
    folder = open_run(job.run)
    if job.against is None:
        raise ConfigError("no real cases; give --against FOLDER, the data that the run was made of")
    data = find_data(job.against, "against")
    identity, manifest = check_run(folder), read_manifest(data)
    with lock_run(folder) as lock, RaySession() as session:
        whose = patient_namer(identity)
        plans = _plans(folder, data, job.max_volumes)
        names = {plan.sample_id: whose(plan.case_id) for plan in plans}
        gone = read_withdrawn(folder)
        real = [i for i, e in sorted(manifest.cases.items()) if e.has_image and i not in gone]
        patients = {"run": len(set(names.values())), "real": len({whose(name) for name in real})}
        enough = min(patients.values()) >= job.min_patients
        rivals: dict[str, LoadRival] = {
            name: _rival(job, name, folder, data, manifest, whose) for name in job.rivals
        }
        task = EvaluateTask(folder.root, data, job, rivals, with_features=enough)
        rows = list(_rows(job, plans, real if enough else []))
        session.start()
        pool = choose_pool(job.num_workers, len(rows), node_resources(), 1)
        populations, found = Populations(job.seed), _Found()
        for count, status in enumerate(run_rows(rows, EvaluateWorker, {"task": task}, pool), 1):
            lock.check()
            _take(status, found, populations, names, whose)
            if count % _SAY_EVERY == 0 or count == len(rows):
                log.info("%d of %d looked at", count, len(rows))
        _refuse_nothing(folder, found)
        unit = read_prepared_header(data / plans[0].mask_source).unit
        metrics = _metrics(job, found, populations, names, patients, unit)
        metrics = metrics.model_copy(
            update={
                "settings_sha256": identity.settings_sha256,
                "weights_sha256": identity.weights_sha256,
                "against": data.name,
                "against_sha256": sha256_of({i: c.sha256 for i, c in manifest.cases.items()}),
            }
        )
        _write(folder, metrics)
    return metrics, folder.evaluation / METRICS


def _refuse_nothing(folder: RunFolder, found: _Found) -> None:
    if not found.samples:
        reasons = "; ".join(list(found.failed.values())[:3])
        raise RunError(f"{folder.root}: no volume could be evaluated ({reasons})")


def _plans(folder: RunFolder, data: Place, limit: int | None) -> list[PlanRow]:
    """Rows with a volume, evenly spread over the plan.

    Raises:
        RunError: there are none.
        ConfigError: their cases are not in the data.
    """
    committed = ledger.committed_ids(folder)
    plans = [row for row in active_rows(folder) if row.sample_id in committed]
    if not plans:
        raise RunError(f"{folder.root}: has no volumes yet; start the run's job again")
    if limit is not None and limit < len(plans):
        plans = [plans[round(k)] for k in np.linspace(0, len(plans) - 1, limit)]
    for plan in plans:
        if not (data / plan.mask_source).exists():
            raise ConfigError(
                f"against: {data} has no {plan.mask_source}, whose mask {plan.sample_id} was made "
                "for; give the prepared cases that the run was made from"
            )
    return plans


def _rows(job: EvaluateJob, plans: Sequence[PlanRow], real: Sequence[str]) -> Iterator[Row]:
    """Volumes, then replicas and pairs of one mask, then real cases."""
    for plan in plans:
        yield _row("volume", plan.sample_id, [plan])
    if "diversity" in job.metrics:
        masks: dict[str, dict[str, PlanRow]] = {}
        for plan in plans:
            if not plan.changes and not plan.drawn_mask:
                shown = f"{plan.informed_source}:{plan.informed_z}"
                masks.setdefault(plan.mask_source, {}).setdefault(shown, plan)
        for group in replicas_of(list(plans)):
            yield _row("replicas", group[0].sample_id, group[:_MOST_REPLICAS])
        for found in masks.values():
            if len(found) > 1:
                pair = sorted(found.values(), key=lambda p: p.informed != "own")[:2]
                yield _row("pair", pair[0].sample_id, pair)
    if "distribution" in job.metrics:
        for name in real:
            yield {"kind": "real", "name": name, "plans": "[]", "source": f"{name}.zarr"}


def _row(kind: str, name: str, plans: Sequence[PlanRow]) -> Row:
    texts = json.dumps([plan.model_dump_json() for plan in plans])
    return {"kind": kind, "name": name, "plans": texts, "source": ""}


def _rival(
    job: EvaluateJob,
    name: str,
    folder: RunFolder,
    data: Place,
    manifest: PreparedManifest,
    whose: Callable[[str], str],
) -> LoadRival:
    redrawn = None
    if name == "redrawn":
        if job.redrawn is None:
            raise ConfigError(
                "rivals: redrawn needs prepared cases of another draw; give --redrawn"
            )
        redrawn = find_data(job.redrawn, "redrawn")
        check_redrawn(redrawn, {data: manifest})
    facts = case_facts(manifest, data)
    training = training_cases(facts, ("train",), read_withdrawn(folder), MAX_TRAINING_CASES)
    num_classes = len(manifest.class_names)
    return LoadRival(
        name,
        tuple((whose(case), data / f"{case}.zarr") for case in training),
        {case: whose(case) for case in facts},
        num_classes,
        0 if manifest.config.contour == "none" else num_classes,
        redrawn,
    )


def _take(
    status: Row,
    found: _Found,
    populations: Populations,
    names: dict[str, str],
    whose: Callable[[str], str],
) -> None:
    """Let what one row gave count."""
    name, kind = status["name"], status["kind"]
    if status["error"]:
        found.failed[name] = status["error"]
        log.error("%s: %s", name, status["error"])
        return
    values = json.loads(status["values"])
    found.protocols.update(values.pop("protocols", {}))
    if kind == "volume":
        for row, told in values["rows"].items():
            found.samples.setdefault(row, {})[name] = told
    elif kind == "replicas":
        found.replicas[name] = values
    elif kind == "pair":
        found.pairs[name] = values
    patient = names[name] if name in names and kind == "volume" else whose(name)
    populations.add(patient, unpacked(status["features"]))


def _metrics(
    job: EvaluateJob,
    found: _Found,
    populations: Populations,
    names: dict[str, str],
    patients: dict[str, int],
    unit: str,
) -> Metrics:
    order = [OWN_ROW, *job.rivals]
    samples = {row: found.samples[row] for row in order if row in found.samples}
    tables = measure_tables(samples, names.__getitem__, job.metrics, unit, job.seed)
    if "diversity" in job.metrics:
        tables.append(
            diversity_table(
                samples, found.replicas, found.pairs, names.__getitem__, OWN_ROW, job.seed
            )
        )
    extractor = found.protocols.get("extractor", {})
    if "distribution" in job.metrics:
        tables.append(
            distribution_table(
                populations, list(samples), patients, job.min_patients, extractor.get("absent", "")
            )
        )
    return Metrics(
        settings_sha256="",
        weights_sha256="",
        against="",
        against_sha256="",
        patients=patients["run"],
        volumes=len(samples.get(OWN_ROW, {})),
        failed=found.failed,
        warnings=tuple(_warnings(job, found, patients)),
        protocols=_protocols(job, found, populations),
        tables=tuple(tables),
        replicas=found.replicas,
        pairs=found.pairs,
        samples={
            row: {sample: told["values"] for sample, told in of_row.items()}
            for row, of_row in samples.items()
        },
    )


def _warnings(job: EvaluateJob, found: _Found, patients: dict[str, int]) -> Iterator[str]:
    if patients["run"] < job.min_patients:
        yield (
            f"{patients['run']} patients stand behind these figures: they say something about "
            "these cases and nothing about a population."
        )
    copies = sorted(name for name, values in found.replicas.items() if values["near_copies"])
    if copies:
        yield (
            f"Replicas of {len(copies)} of {len(found.replicas)} masks are near copies of each "
            "other: they add little to a data set."
        )
    if found.failed:
        yield f"{len(found.failed)} volumes could not be looked at; metrics.json says why."


def _protocols(job: EvaluateJob, found: _Found, populations: Populations) -> dict[str, str]:
    protocols: dict[str, str] = {"bootstrap": "2000 draws of patients, percentile interval, 95 %"}
    extractor = found.protocols.get("extractor", {})
    if extractor.get("name"):
        protocols["FID and KID"] = (
            f"{extractor['name']}, sha256 {extractor['sha256']}; "
            f"{job.protocol.model_dump_json()}; slices {json.dumps(populations.slices)}"
        )
    if "extractor" in found.protocols:
        from engine.evaluation.distribution.radiomics import FEATURES_VERSION

        protocols["FRD"] = f"{FEATURES_VERSION}, z-scored by the real cases' slices"
    perceptual = found.protocols.get("perceptual", {})
    if perceptual.get("sha256"):
        protocols["ST-LPIPS"] = f"sha256 {perceptual['sha256']}"
    return protocols


def _write(folder: RunFolder, metrics: Metrics) -> None:
    folder.evaluation.mkdir(exist_ok=True)
    plot = in_own_process(draw_tables, metrics.tables)
    if plot:
        put(folder.evaluation / PLOT, plot)
    put(folder.evaluation / METRICS, metrics.model_dump_json(indent=1) + "\n")
    if not put_on_page(folder):
        log.warning("%s: not there, or of an early version; the section is left out", folder.report)


assert set(EvaluateJob.model_fields["rivals"].default) <= RIVALS.keys()
