"""A run's committed volumes -> NIfTI on each mask's own grid, for tools that do not read Zarr.

Trusts commit records only: what is exported has the bytes that were committed. Volume by volume, so
that a run of any length takes little memory; what was exported from the same bytes before is kept,
so that a broken-off export goes on. Knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from engine.config import FrozenConfig
from engine.errors import ConfigError, RunError, StoreError
from engine.log import get_logger
from engine.paths import WRITTEN
from engine.runs import ledger
from engine.runs.census import active_rows
from engine.runs.folder import RunFolder
from engine.runs.identity import hash_file, sha256_of
from engine.storage.files import append, put
from engine.storage.places import Place, PlaceField
from engine.volumes.labels.exported import ExportedLabels, exported_labels
from engine.volumes.nifti import header_notes, write_nifti
from engine.volumes.store import hash_tree, read_ome_zarr

log = get_logger(__name__)

_RECORDS = "exported.jsonl"


class ExportJob(FrozenConfig):
    """Settings of jobs/export_volumes.py.

    Attributes:
        run: the run folder; required.
        out: folder to write to; None is `export` (`export_nnunet`) in the run folder.
        layout: "nifti": `images/` and `labels/`; "nnunet": a raw data set of nnU-Net v2
            (`imagesTr/`, `labelsTr/`, `dataset.json`).
        contour: whether masks "keep" the body or brain that preparing added as a class, or "drop"
            it to background; None drops it for nnU-Net, whose masks had none.
        skip_flagged: leave out volumes that the quality gate marked.
    """

    run: Annotated[PlaceField, WRITTEN] | None = None
    out: Annotated[Path, WRITTEN] | None = None
    layout: Literal["nifti", "nnunet"] = "nifti"
    contour: Literal["keep", "drop"] | None = None
    skip_flagged: bool = False


@dataclass(frozen=True)
class _Target:
    """Where and how volumes are written."""

    out: Path
    layout: Literal["nifti", "nnunet"]
    drop_contour: bool

    def image(self, name: str) -> Path:
        if self.layout == "nnunet":
            return self.out / "imagesTr" / f"{name}_0000.nii.gz"
        return self.out / "images" / f"{name}.nii.gz"

    def mask(self, name: str) -> Path:
        return self.out / ("labelsTr" if self.layout == "nnunet" else "labels") / f"{name}.nii.gz"


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
    folder = RunFolder(job.run)
    if not folder.plan.is_file():
        raise RunError(f"{job.run}: not a run folder (no plan.jsonl); give one that a job made")
    default = "export_nnunet" if job.layout == "nnunet" else "export"
    contour = job.contour or ("drop" if job.layout == "nnunet" else "keep")
    target = _Target(_out(job, default), job.layout, contour == "drop")
    names = _names(folder, job.skip_flagged)
    if not names:
        raise RunError(f"{job.run}: no volume is committed yet; run the job first")
    return _export_all(folder, target, names)


def _out(job: ExportJob, default: str) -> Path:
    if job.out is not None:
        return job.out
    if isinstance(job.run, Path):
        return job.run / default
    raise ConfigError(f"{job.run}: exports are written to disk; give a folder with --out")


def _names(folder: RunFolder, skip_flagged: bool) -> list[str]:
    """Committed samples in the plan's order."""
    if isinstance(folder.commits, Path) and not folder.commits.is_dir():
        return []
    committed = ledger.committed_ids(folder)
    names = [row.sample_id for row in active_rows(folder) if row.sample_id in committed]
    if not skip_flagged:
        return names
    records = ((name, ledger.read_commit(folder, name)) for name in names)
    return [name for name, commit in records if commit and not commit.quality.flags]


def _export_all(folder: RunFolder, target: _Target, names: Sequence[str]) -> list[Path]:
    kept = _open_target(folder, target.out)
    paths: list[Path] = []
    labels: ExportedLabels | None = None
    unit = ""
    for number, name in enumerate(names, start=1):
        commit = ledger.read_commit(folder, name)
        if commit is None:
            raise StoreError(f"{folder.commit(name)}: gone while exporting; export again")
        unit = commit.measures.unit
        found = _labels(ledger.volume_of(folder, commit), target)
        if labels not in (None, found):
            raise RunError(f"{folder.root}: {name} has other classes than the volumes before it")
        labels = found
        digest = sha256_of([commit.files, target.drop_contour, found.table])
        there = target.image(name).is_file() and target.mask(name).is_file()
        if not (there and kept.get(name) == digest):
            _export(ledger.volume_of(folder, commit), name, target, commit.files)
            append(target.out / _RECORDS, json.dumps({"sample_id": name, "sha256": digest}))
            log.info("%d of %d exported: %s", number, len(names), name)
        paths.append(target.image(name))
    if target.layout == "nnunet" and labels is not None:
        _describe(target, labels, unit, len(paths))
    return paths


def _export(stored: Place, name: str, target: _Target, files: dict[str, str]) -> None:
    if hash_tree(stored) != files:
        raise _differs(stored)
    image, mask, attributes = read_ome_zarr(stored)
    for note in header_notes(image):
        log.warning("%s: %s", name, note)
    numbers = exported_labels(attributes, target.drop_contour)
    mask = replace(mask, array=numbers.of(mask.array))
    for path, volume in ((target.mask(name), mask), (target.image(name), image)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, volume)


def _differs(stored: Place) -> StoreError:
    return StoreError(
        f"{stored}: differs from its commit record; jobs/verify_run.py --repair deletes it, "
        "and the run's job makes it again"
    )


def _labels(stored: Place, target: _Target) -> ExportedLabels:
    try:
        raw = json.loads((stored / "zarr.json").read_text(encoding="utf-8"))
        attributes = raw["attributes"]
        attributes["class_names"]
    except (OSError, ValueError, KeyError, TypeError):
        hash_tree(stored)  # a volume that is gone altogether says so
        raise _differs(stored) from None
    return exported_labels(attributes, target.drop_contour)


def _describe(target: _Target, labels: ExportedLabels, unit: str, count: int) -> None:
    """nnU-Net v2's `dataset.json`; the channel's name chooses its normalization."""
    description = {
        "channel_names": {"0": "CT" if unit == "HU" else "MR"},
        "labels": labels.description(),
        "numTraining": count,
        "file_ending": ".nii.gz",
        "description": "synthetic, not for diagnosis",
    }
    put(target.out / "dataset.json", json.dumps(description, indent=2) + "\n")


def _open_target(folder: RunFolder, out: Path) -> dict[str, str]:
    """Make the folder, or go on in one that an earlier export of this run began.

    Returns:
        What was exported before, and from which bytes.

    Raises:
        RunError: it holds what this run's export did not write.
        StoreError: it cannot be written.
    """
    plan, path = hash_file(folder.plan), out / _RECORDS
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            if any(out.iterdir()):
                raise RunError(
                    f"{out}: holds files that no export wrote; choose an empty folder with --out"
                )
            append(path, json.dumps({"plan": plan}))
    except OSError as error:
        raise StoreError(
            f"{out}: cannot be written ({error.strerror}); choose another folder with --out"
        ) from None
    kept = {}
    for line in _records(path):
        if line.get("plan", plan) != plan:
            raise RunError(
                f"{out}: holds the export of another run; choose an empty folder with --out"
            )
        if {"sample_id", "sha256"} <= line.keys():
            kept[line["sample_id"]] = line["sha256"]
    return kept


def _records(path: Path) -> Iterator[dict[str, str]]:
    """Lines of an export's records: its plan, then a volume each; torn ones are passed over."""
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                yield line
