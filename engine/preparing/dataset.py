"""A data set of NIfTI files -> a folder of prepared Zarr, in parallel with Ray Data.

One case is one row. A refused case becomes a status row and the rest is finished; what was prepared
from the same files with the same settings is kept. Several data sets may share a folder as long as
their settings agree and their case ids differ. Knows no model.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from engine.config import FrozenConfig
from engine.errors import ConfigError, EngineError
from engine.log import get_logger
from engine.parallel.rows.pipeline import Pool, Row, node_resources, run_rows
from engine.parallel.rows.tries import TryBook
from engine.parallel.start.session import RaySession
from engine.paths import READ, WRITTEN, PathUse, path_to_write, resolve_paths
from engine.preparing.records import (
    CaseRecord,
    files_of,
    is_kept,
    open_folder,
    read_records,
    refuse_taken,
    row_of,
    source_digests,
    tree_digest,
)
from engine.storage.files import PRIVATE_UMASK
from engine.storage.locks.file_lock import FileLock
from engine.volumes.labels.classes import count_labels, describe_labels
from engine.volumes.labels.declared_files import labels_of
from engine.volumes.labels.resolve import resolve_labels
from engine.volumes.layouts import CaseFiles, Layout, Listing, list_data_set
from engine.volumes.prepared.class_loss import describe_loss, loss_notes
from engine.volumes.prepared.grid_loss import grid_loss, refuse_loss
from engine.volumes.prepared.manifest import PreparedEntry, PreparedManifest, write_manifest
from engine.volumes.prepared.prepare import ABDOMEN_CT, PrepareConfig, prepare_case
from engine.volumes.prepared.store import write_prepared
from engine.volumes.reading import read_image, read_labels

log = get_logger(__name__)

_PART = PathUse(writes=False, below="root")


class DataSource(FrozenConfig):
    """Where raw cases lie.

    Attributes:
        root: the data set's folder; may be None where `masks` is given.
        layout: "nnunet", "nnunet_v1", "msd", "folders", "case_folders", "flat", or "auto" to look.
        images: layout "folders": the folder of images, from the current folder or below `root`.
        masks: layout "folders": the folder of masks, likewise.
        channel: which image of a case that has several (`_0000`, `_0001`, or of a 4D file).
    """

    root: Annotated[Path, READ] | None = None
    layout: Layout = "auto"
    images: Annotated[Path, _PART] | None = None
    masks: Annotated[Path, _PART] | None = None
    channel: int | None = Field(None, ge=0)

    def listing(self) -> Listing:
        """The data set's cases, sorted by id, and what is left out (see `list_data_set`)."""
        return list_data_set(self.root, self.layout, self.images, self.masks, self.channel)

    def name(self, cases: Sequence[CaseFiles]) -> str:
        """What the data set is called: its folder, or the one around its masks."""
        folder = self.root if self.root is not None else cases[0].mask.parent.parent
        return folder.resolve().name


class PrepareJob(FrozenConfig):
    """Settings of the job: where from, where to, and how.

    Attributes:
        root: the data set's folder; required, unless `masks` is given.
        out: folder for the prepared cases; required.
        layout: "nnunet", "nnunet_v1", "msd", "folders", "case_folders" (a folder of each
            case: BraTS, KiTS, TotalSegmentator), "flat" (images and masks side by side), or "auto"
            to look.
        images: layout "folders": the folder of images, from the current folder or below `root`.
        masks: layout "folders": the folder of masks, likewise.
        channel: which image of a case that has several: `_0000`, `_0001`, ... or the channel of a
            4D file; None is nnU-Net's 0 in its layouts, and elsewhere the only one.
        labels: which raw label is which class, by name: of a public data set (amos, btcv,
            abdomenct1k, totalsegmentator1, totalsegmentator2, msd_liver, brats2023, ...), or
            "dataset" for the names in the data set's dataset.json; None takes prepare.label_map.
        trust_label_map: take the label map even where dataset.json names its labels otherwise.
        num_workers: processes; None takes all CPUs of the Ray cluster but one.
        stall_timeout: seconds after which a worker that is stuck in a case is ended, and the case
            tried again; None only names it.
        private: whether only you may read what is written (modes 0600 and 0700).
        prepare: how; a preset's settings.
    """

    root: Annotated[Path, READ] | None = None
    out: Annotated[Path, WRITTEN] | None = None
    layout: Layout = "auto"
    images: Annotated[Path, _PART] | None = None
    masks: Annotated[Path, _PART] | None = None
    channel: int | None = Field(None, ge=0)
    labels: str | None = None
    trust_label_map: bool = False
    num_workers: int | None = Field(None, ge=1)
    stall_timeout: float | None = Field(None, ge=10)
    private: bool = False
    prepare: PrepareConfig = ABDOMEN_CT


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


class PrepareWorker:
    """Prepares one case a call; every failure comes back as a row, none as an exception."""

    def __init__(self, out: str, config: str) -> None:
        self._out = Path(out)
        self._config = PrepareConfig.model_validate_json(config)

    def __call__(self, row: Row) -> Row:
        """Read, prepare and store the case of `row`; return its status row."""
        started_s = time.perf_counter()
        status: Row = {**row, "entry": "", "error": ""}
        try:
            status["entry"] = self._prepare(row).model_dump_json()
        except EngineError as error:
            status["error"] = str(error)
        except Exception as error:  # one odd case must not take the others down
            status["error"] = f"{row['mask']}: {type(error).__name__}: {error}; leave the case out"
        status["took_s"] = time.perf_counter() - started_s
        return status

    def given_up(self, row: Row, message: str) -> Row:
        """The status row of a case that is not tried again."""
        return {**row, "entry": "", "error": message, "took_s": 0.0}

    def _prepare(self, row: Row) -> PreparedEntry:
        files, channel = files_of(row)
        sources: dict[str, str] = {}
        with suppress(EngineError, OSError):  # reading names what is wrong with a file
            sources = source_digests(row)  # first, so that a file that changes meanwhile shows
        image = read_image(files["image"], channel=channel) if "image" in files else None
        brain = read_labels(files["brain_mask"]) if "brain_mask" in files else None
        wanted = {*self._config.label_map} if self._config.other_labels == "background" else None
        labels = read_labels(files["mask"], only=wanted)
        case = prepare_case(image, labels, self._config, row["case_id"], brain)
        loss = grid_loss(case)
        refuse_loss(row["mask"], loss, any_class=self._config.lost_classes == "refuse")
        path = self._out / f"{case.case_id}.zarr"
        write_prepared(path, case)
        return PreparedEntry(
            dataset=row["dataset"],
            split=row["split"],
            sha256=tree_digest(path),
            size_zyx=case.size_zyx,
            has_image=case.image is not None,
            sources=sources,
            label_voxels=count_labels(labels.array),
            notes=(*case.notes, *loss_notes(loss)),
            grid_loss=loss,
        )


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
    with FileLock(out / "lock"):
        for torn in out.glob(".*.part"):  # of a killed call; nobody else writes here now
            shutil.rmtree(torn, ignore_errors=True)
        rows = [row_of(case, source.name(cases)) for case in cases]
        before = read_records(out)
        refuse_taken(out, rows, before)
        kept = {row["case_id"] for row in rows if is_kept(out, row, before)}
        todo = [row for row in rows if row["case_id"] not in kept]
        log.info("%d cases: %d to prepare, %d kept", len(rows), len(todo), len(kept))
        made, failed = (
            _run(todo, out, config, num_workers, stall_timeout, private) if todo else ({}, {})
        )
        gone = set(failed) | _unlisted(before, found.left_out, source.name(cases))
        entries = {i: record.entry for i, record in before.items() if i not in gone} | made
        for case_id in gone:  # made from older files: no longer what the data set says
            shutil.rmtree(out / f"{case_id}.zarr", ignore_errors=True)
        failed |= found.left_out
        manifest = PreparedManifest(
            config=config,
            class_names=config.all_class_names,
            cases=dict(sorted(entries.items())),
            failed=dict(sorted(failed.items())),
        )
        write_manifest(out, manifest)
    counts = [entries[row["case_id"]].label_voxels for row in rows if row["case_id"] in entries]
    meanings = tuple(describe_labels(config, declared, counts)) if counts else ()
    losses = {i: entries[i].grid_loss for row in rows if (i := row["case_id"]) in entries}
    return PrepareSummary(
        out,
        len(rows),
        len(made),
        len(kept),
        manifest.failed,
        meanings,
        tuple(describe_loss(losses)),
    )


def _unlisted(before: dict[str, CaseRecord], left_out: dict[str, str], dataset: str) -> set[str]:
    """Cases made before of a data set that now has them in files that are not read."""
    return {i for i in left_out if i in before and before[i].entry.dataset == dataset}


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
