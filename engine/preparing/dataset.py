"""A data set of NIfTI files -> a folder of prepared Zarr, in parallel with Ray Data.

One case is one row. A refused case becomes a status row and the rest is finished; what was prepared
from the same files with the same settings is kept. Several data sets may share a folder as long as
their settings agree and their case ids differ. Knows no model.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.errors import ConfigError
from engine.log import get_logger
from engine.parallel.rows.pipeline import Pool, Row, node_resources, run_rows
from engine.parallel.rows.tries import TryBook
from engine.parallel.start.session import RaySession
from engine.paths import path_to_write, resolve_paths
from engine.preparing.records import (
    CaseRecord,
    is_kept,
    open_folder,
    read_records,
    refuse_taken,
    row_of,
)
from engine.preparing.settings import DataSource, PrepareJob
from engine.preparing.worker import PrepareWorker
from engine.storage.files import PRIVATE_UMASK
from engine.storage.locks.file_lock import FileLock
from engine.volumes.labels.classes import describe_labels
from engine.volumes.labels.declared import DeclaredLabels
from engine.volumes.labels.declared_files import labels_of
from engine.volumes.labels.resolve import resolve_labels
from engine.volumes.layouts import CaseFiles
from engine.volumes.prepared.class_loss import describe_loss
from engine.volumes.prepared.manifest import PreparedEntry, PreparedManifest, write_manifest
from engine.volumes.prepared.prepare import PrepareConfig

log = get_logger(__name__)


@dataclass(frozen=True)
class PrepareSummary:
    """What became of a data set.

    Attributes:
        out: folder of prepared cases.
        planned: cases found.
        prepared: made by this call.
        kept: there already, from the same files and settings.
        failed: case id, or file that is no case -> why.
        labels: which raw labels became which class, a line each.
        loss: what the prepared grid loses of the masks, class by class and case by case.
    """

    out: Path
    planned: int
    prepared: int
    kept: int
    failed: dict[str, str]
    labels: tuple[str, ...] = ()
    loss: tuple[str, ...] = ()


def run_job(job: PrepareJob) -> PrepareSummary:
    """`prepare_dataset` by a job's settings.

    Raises:
        ConfigError: `root` (or `masks`) or `out` is not given.
    """
    if job.out is None or (job.root is None and job.masks is None):
        raise ConfigError(
            "--root (the data set; or --images and --masks) and --out (the prepared cases) are "
            "both needed"
        )
    source = DataSource(
        root=job.root,
        layout=job.layout,
        images=job.images,
        masks=job.masks,
        channel=job.channel,
    )
    return prepare_dataset(
        source,
        job.out,
        job.prepare,
        job.num_workers,
        job.labels,
        job.trust_label_map,
        job.stall_timeout,
        job.private,
    )


def prepare_dataset(
    source: Path | DataSource,
    out: Path,
    config: PrepareConfig,
    num_workers: int | None = None,
    labels: str | None = None,
    trust_label_map: bool = False,
    stall_timeout: float | None = None,
    private: bool = False,
) -> PrepareSummary:
    """Prepare every case of a data set; refused cases are named in the summary.

    Args:
        source: the data set's folder, or where its files lie.
        out: folder for `{case_id}.zarr` and `dataset.json`.
        config: the preset.
        num_workers: processes; None takes all CPUs of the Ray cluster but one.
        labels: whose names make the label map, see `resolve_labels`; None takes the preset's.
        trust_label_map: take the map even where the data set's own names contradict it.
        stall_timeout: seconds, see `PrepareJob`.
        private: whether only this user may read what is written.

    Raises:
        ConfigError: `out` is a folder of the data set itself, or its labels are called otherwise
            than the label map says.
        LayoutError: the folder is no data set.
        RunError: `out` holds cases of other settings, or another job works there.
        StoreError: `out` cannot be written.
    """
    source = source if isinstance(source, DataSource) else DataSource(root=source)
    source, out = resolve_paths(source), path_to_write(out)
    found = source.listing()
    cases = found.cases
    _refuse_source(out, source, cases)
    declared = labels_of(cases, source.root)
    config = resolve_labels(config, labels, declared, trust_label_map)
    if private:
        os.umask(PRIVATE_UMASK)
    open_folder(out, config)
    rows = [row_of(case, source.name(cases)) for case in cases]
    with FileLock(out / "lock"):
        manifest, num_made, num_kept = _prepare_rest(
            rows,
            found.left_out,
            out,
            config,
            lambda todo: _run(todo, out, config, num_workers, stall_timeout, private),
        )
    return _summary(out, rows, manifest, num_made, num_kept, declared)


Prepare = Callable[[Sequence[Row]], tuple[dict[str, PreparedEntry], dict[str, str]]]


def _prepare_rest(
    rows: Sequence[Row],
    left_out: dict[str, str],
    out: Path,
    config: PrepareConfig,
    prepare: Prepare,
) -> tuple[PreparedManifest, int, int]:
    """Prepare what is not there yet, and write `dataset.json`. The caller holds the folder's lock.

    Returns:
        The manifest; how many cases were made, and how many kept.
    """
    for torn in out.glob(".*.part"):  # of a killed call; nobody else writes here now
        shutil.rmtree(torn, ignore_errors=True)
    before = read_records(out)
    refuse_taken(out, rows, before)
    kept = {row["case_id"] for row in rows if is_kept(out, row, before)}
    todo = [row for row in rows if row["case_id"] not in kept]
    log.info("%d cases: %d to prepare, %d kept", len(rows), len(todo), len(kept))
    made, failed = prepare(todo) if todo else ({}, {})
    gone = set(failed) | _unlisted(before, left_out, {row["dataset"] for row in rows})
    entries = {i: record.entry for i, record in before.items() if i not in gone} | made
    for case_id in gone:  # made from older files: no longer what the data set says
        shutil.rmtree(out / f"{case_id}.zarr", ignore_errors=True)
    manifest = PreparedManifest(
        config=config,
        class_names=config.all_class_names,
        cases=dict(sorted(entries.items())),
        failed=dict(sorted((failed | left_out).items())),
    )
    write_manifest(out, manifest)
    return manifest, len(made), len(kept)


def _summary(
    out: Path,
    rows: Sequence[Row],
    manifest: PreparedManifest,
    num_made: int,
    num_kept: int,
    declared: DeclaredLabels,
) -> PrepareSummary:
    names = [row["case_id"] for row in rows if row["case_id"] in manifest.cases]
    losses = {name: manifest.cases[name].grid_loss for name in names}
    counts = [manifest.cases[name].label_voxels for name in names]
    return PrepareSummary(
        out,
        len(rows),
        num_made,
        num_kept,
        manifest.failed,
        tuple(describe_labels(manifest.config, declared, counts)) if counts else (),
        tuple(describe_loss(losses)),
    )


def _unlisted(
    before: dict[str, CaseRecord], left_out: dict[str, str], datasets: set[str]
) -> set[str]:
    """Cases made before of a data set that now has them in files that are not read."""
    return {i for i in left_out if i in before and before[i].entry.dataset in datasets}


def _refuse_source(out: Path, source: DataSource, cases: Sequence[CaseFiles]) -> None:
    """Keep prepared cases out of the data set's own folders: both have a `dataset.json`."""
    folders = {file.parent for case in cases for file in (case.image, case.mask) if file}
    for folder in folders if source.root is None else {source.root, *folders}:
        if out.resolve() == folder.resolve():
            raise ConfigError(
                f"out: {out} is a folder of the data set itself, whose files would be overwritten; "
                "choose another with --out"
            )


def _run(
    rows: Sequence[Row],
    out: Path,
    config: PrepareConfig,
    num_workers: int | None,
    stall_timeout: float | None,
    private: bool,
) -> tuple[dict[str, PreparedEntry], dict[str, str]]:
    made: dict[str, PreparedEntry] = {}
    failed: dict[str, str] = {}
    with RaySession() as session:
        session.start()
        pool = _pool(num_workers, len(rows))
        settings = {"out": str(out.resolve()), "config": config.model_dump_json()}
        started_s = time.perf_counter()
        tries = TryBook(out.resolve() / "attempts", "case_id", "stamp")
        tries.forgive()
        pool = replace(
            pool, disk=out.resolve(), tries=tries, stall_timeout_s=stall_timeout, private=private
        )
        for status in run_rows(rows, PrepareWorker, settings, pool):
            case_id = status["case_id"]
            if status["error"]:
                failed[case_id] = status["error"]
                log.warning("%s refused: %s", case_id, status["error"])
            else:
                made[case_id] = PreparedEntry.model_validate_json(status["entry"])
                for note in made[case_id].notes:
                    log.warning("%s: %s", case_id, note)
                record = CaseRecord(case_id=case_id, stamp=status["stamp"], entry=made[case_id])
                record.add(out)
            done = len(made) + len(failed)
            each_s = (time.perf_counter() - started_s) / done
            left_s = each_s * (len(rows) - done)
            log.info("%d/%d cases, about %.0f s left (%s)", done, len(rows), left_s, case_id)
        tries.close()
        for left in out.glob(".pulse-*"):
            left.unlink(missing_ok=True)
    return made, failed


def _pool(num_workers: int | None, num_rows: int) -> Pool:
    """A worker a CPU, one CPU left free: Ray Data's own tasks need it."""
    num_cpus = int(sum(node.get("CPU", 0) for node in node_resources()))
    workers = max(1, min(num_workers or num_cpus - 1, num_rows))
    share = 1.0 if workers < num_cpus else max(0.01, (num_cpus - 0.5) / workers // 0.01 / 100)
    return Pool(workers, share, 0.0, 1)
