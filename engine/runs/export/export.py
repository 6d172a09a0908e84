"""A run's committed volumes -> NIfTI on each mask's own grid, for tools that do not read Zarr.

Trusts commit records only: what is exported has the bytes that were committed. Volume by volume, so
that a run of any length takes little memory; what was exported from the same bytes before is kept,
so that a broken-off export goes on, and what is no longer part of the run is removed. Where files
lie is the business of `target.py`, whose they are that of `records.py`. Knows no
model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from engine.config import FrozenConfig
from engine.errors import ConfigError, RunError, StoreError, os_refusal, printable
from engine.log import get_logger
from engine.paths import WRITTEN
from engine.runs.export.known_exports import record_export
from engine.runs.export.records import RECORDS_NAME, ExportRecords, open_records
from engine.runs.export.target import ExportLayout, ExportMasks, ExportTarget, describe
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, no_run
from engine.runs.record.identity import hash_file, sha256_of
from engine.runs.record.own_files import check_run
from engine.runs.record.plan import iter_plan
from engine.runs.record.status import active_rows
from engine.runs.record.withdrawal import read_withdrawn
from engine.storage.backends.find import storage_at
from engine.storage.checked_files import read_json
from engine.storage.files import PRIVATE_UMASK
from engine.storage.places import Place, PlaceField
from engine.volumes.labels.exported import ExportedLabels, exported_labels
from engine.volumes.nifti import header_notes, remove_parts, write_nifti
from engine.volumes.store import hash_tree, read_model_mask, read_ome_zarr, seen_label

log = get_logger(__name__)

_MAKE_ROOM = "free disk space, or make the folder writable, and export again: what is there is kept"

_SHOWN = 10


class ExportJob(FrozenConfig):
    """Settings of jobs/export_volumes.py.

    Attributes:
        run: the run folder; required.
        out: folder to write to; None is `export` (`export_nnunet`) in the run folder.
        layout: "nifti": `images/` and `labels/`; "nnunet": a raw data set of nnU-Net v2
            (`imagesTr/`, `labelsTr/`, `dataset.json`; volumes of test masks in `imagesTs/` and
            `labelsTs/`).
        contour: whether masks "keep" the body or brain that preparing added as a class, or "drop"
            it to background; None drops it for nnU-Net, whose masks had none.
        masks: "drawn": masks as they were drawn, small structures that the model's grid lost
            included; "model": masks as the model saw them, which agree with the images.
        skip_flagged: leave out volumes that the quality gate marked.
        private: whether only you may read what is written (modes 0600 and 0700).
    """

    run: Annotated[PlaceField, WRITTEN] | None = None
    out: Annotated[Path, WRITTEN] | None = None
    layout: ExportLayout = "nifti"
    contour: Literal["keep", "drop"] | None = None
    masks: ExportMasks = "drawn"
    skip_flagged: bool = False
    private: bool = False


def export_run(job: ExportJob) -> list[Path]:
    """Write every committed volume and its mask.

    Returns:
        The images, in the plan's order, written now or before.

    Raises:
        ConfigError: no run given.
        RunError: not a run folder, nothing is committed yet, or `out` holds other files.
        StoreError: a volume is not what was committed.
    """
    if job.run is None:
        raise ConfigError("no run to export; give --run FOLDER")
    if job.private:
        os.umask(PRIVATE_UMASK)
    folder = RunFolder(job.run)
    if not any(path.is_file() for path in (folder.plan, folder.identity)):
        raise RunError(no_run(folder))
    default = "export_nnunet" if job.layout == "nnunet" else "export"
    contour = job.contour or ("drop" if job.layout == "nnunet" else "keep")
    test = _of_test_masks(folder)
    target = ExportTarget(_out(job, default), job.layout, contour == "drop", test, job.masks)
    listed = read_withdrawn(folder)
    names = _names(folder, job.skip_flagged)
    if not names and not (target.out / RECORDS_NAME).is_file():
        raise RunError(_nothing(job))
    check_run(folder)  # a plan that was cut would give a part of the volumes
    with open_records(target.out, hash_file(folder.plan)) as records:
        record_export(folder, target.out, target.layout)
        for stale in records.keep_only({name: target.files(name) for name in names}):
            log.info("removed, no longer part of the export: %s", target.out / stale)
        if not names:
            records.drop_description()
            raise RunError(_nothing(job))
        paths = _export_all(folder, target, names, records, listed)
        _name_foreign(target, records.foreign())
    return paths


def _out(job: ExportJob, default: str) -> Path:
    if job.out is not None:
        return job.out
    run = None if job.run is None else storage_at(job.run).local
    if run is not None:
        return run / default
    raise ConfigError(f"{job.run}: exports are written to disk; give a folder with --out")


def _names(folder: RunFolder, skip_flagged: bool) -> list[str]:
    """Committed samples in the plan's order."""
    if not storage_at(folder.commits).has_folder():
        return []
    committed = ledger.committed_ids(folder)
    names = [row.sample_id for row in active_rows(folder) if row.sample_id in committed]
    if not skip_flagged:
        return names
    records = ((name, ledger.read_commit(folder, name)) for name in names)
    return [name for name, commit in records if commit and not commit.quality.flags]


def _of_test_masks(folder: RunFolder) -> frozenset[str]:
    return frozenset(row.sample_id for row in iter_plan(folder.plan) if row.split == "test")


def _nothing(job: ExportJob) -> str:
    if job.skip_flagged:
        return f"{job.run}: no volume without a flag is committed; leave out --skip-flagged"
    return f"{job.run}: no volume is committed yet; run the job first"


def _export_all(
    folder: RunFolder,
    target: ExportTarget,
    names: Sequence[str],
    records: ExportRecords,
    listed: frozenset[str],
) -> list[Path]:
    paths: list[Path] = []
    labels: ExportedLabels | None = None
    unit, notes = "", set[str]()
    for number, name in enumerate(names, start=1):
        commit = ledger.read_commit(folder, name)
        if commit is None:
            raise StoreError(f"{folder.commit(name)}: gone while exporting; export again")
        unit = commit.measures.unit
        attributes = _attributes(ledger.volume_of(folder, commit))
        found = exported_labels(attributes, target.drop_contour)
        notes.add(attributes.get("intensity_window", {}).get("note", ""))
        if target.masks == "model" and seen_label(attributes) is None:
            raise RunError(
                f"{folder.root}: {name} was made before volumes kept the mask that the model saw; "
                "export with --masks drawn, or make a new run"
            )
        if labels not in (None, found):
            raise RunError(f"{folder.root}: {name} has other classes than the volumes before it")
        labels = found
        digest = sha256_of([commit.files, target.drop_contour, found.table, *target.mask_options])
        files = target.files(name)
        if not records.holds(name, digest, files):
            records.begin(name, files)
            _export(ledger.volume_of(folder, commit), name, target, commit.files)
            _end_if_withdrawn(folder, listed, target, records)
            records.finish(name, digest, files)
            log.info("%d of %d exported: %s", number, len(names), name)
        paths.append(target.image(name))
    _end_if_withdrawn(folder, listed, target, records)
    if target.layout == "nnunet" and labels is not None:
        describe(target, labels, unit, names, notes)
        if target.test.issuperset(names):
            log.warning(
                "%s: volumes of test masks alone; nnU-Net needs some in imagesTr to train",
                target.out,
            )
    return paths


def _end_if_withdrawn(
    folder: RunFolder, listed: frozenset[str], target: ExportTarget, records: ExportRecords
) -> None:
    """Take back what holds a patient who was withdrawn while volumes were written.

    A withdrawal is listed before anything is deleted: whoever looks after writing sees it. The lock
    of the export's folder alone does not do, where a file system has none.
    """
    if read_withdrawn(folder) != listed:
        records.keep_only({name: target.files(name) for name in _names(folder, False)})
        records.drop_description()
        raise RunError(
            f"{target.out}: a patient was withdrawn from the run meanwhile; export again"
        )


def _name_foreign(target: ExportTarget, names: Sequence[str]) -> None:
    if names:
        shown = printable(", ".join(names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
        counted = "; nnU-Net takes what lies in imagesTr for cases: move it away"
        is_training = any(name.startswith("imagesTr/") for name in names)
        log.warning(
            "%s: holds %d files that no export wrote (%s)%s",
            target.out, len(names), shown, counted if is_training else "",
        )  # fmt: skip


def _export(stored: Place, name: str, target: ExportTarget, files: dict[str, str]) -> None:
    if hash_tree(stored) != files:
        raise _differs(stored)
    image, mask, attributes = read_ome_zarr(stored)
    for note in header_notes(image):
        log.warning("%s: %s", name, note)
    numbers = exported_labels(attributes, target.drop_contour)
    array = read_model_mask(stored) if target.masks == "model" else mask.array
    mask = replace(mask, array=numbers.of(array))
    for path, volume in ((target.mask(name), mask), (target.image(name), image)):
        with os_refusal(StoreError, f"{path}: cannot be written", _MAKE_ROOM):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_parts(path.parent)
            write_nifti(path, volume)


def _differs(stored: Place) -> StoreError:
    return StoreError(
        f"{stored}: differs from its commit record; jobs/verify_run.py --repair deletes it, "
        "and the run's job makes it again"
    )


def _attributes(stored: Place) -> dict[str, Any]:
    try:
        raw = read_json(stored / "zarr.json")
        attributes: dict[str, Any] = raw["attributes"]
        attributes["class_names"]
    except (OSError, ValueError, KeyError, TypeError):
        hash_tree(stored)  # a volume that is gone altogether says so
        raise _differs(stored) from None
    return attributes
