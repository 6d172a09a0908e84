"""Where a run was exported to, recorded in the run, so that a withdrawal finds the copies.

`exports.jsonl` names each folder relative to the run (an object store has no place on a disk: there
the path is whole), and its layout. Taking a patient out of such a folder is done here, by the
export's own records. Knows no volume.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from engine.errors import EngineError
from engine.log import get_logger
from engine.runs.export.records import RECORDS_NAME, ExportRecords, open_records, read_records
from engine.runs.export.target import DESCRIPTION_NAME
from engine.runs.record.folder import RunFolder
from engine.storage.backends.find import storage_at
from engine.storage.checked_files import MAX_LIST_BYTES, parse_json, read_json
from engine.storage.digests import hash_file
from engine.storage.files import append, put

log = get_logger(__name__)


def record_export(folder: RunFolder, out: Path, layout: str) -> None:
    """Remember an export's folder, before it gets its first volume.

    What cannot be remembered is told: a withdrawal will not find it.
    """
    place = _place(folder, out)
    with suppress(OSError):
        if any(line.get("out") == place for line in _lines(folder)):
            return
    try:
        append(folder.exports, json.dumps({"out": place, "layout": layout}))
    except OSError as error:
        log.warning(
            "%s: this export cannot be recorded in the run (%s); jobs/verify_run.py --withdraw "
            "will not find it", out, error.strerror or error,
        )  # fmt: skip


def export_folders(folder: RunFolder) -> list[Path]:
    """Folders that the run was exported to, there or not; also unrecorded ones in the run."""
    found = [str(line["out"]) for line in _lines(folder) if isinstance(line.get("out"), str)]
    root = storage_at(folder.root).local
    base = Path("/") if root is None else root.resolve()
    folders = [Path(os.path.normpath(base / place)) for place in found]
    if root is not None:
        folders += [records.parent for records in sorted(root.glob(f"*/{RECORDS_NAME}"))]
    return list({path.resolve(): path for path in reversed(folders)}.values())[::-1]


def take_out(folder: RunFolder, out: Path, samples: Collection[str]) -> str:
    """Delete some samples' files from an export, half-written ones too, and mend what counts them.

    Returns:
        What is left there and why, when that is not this export's to delete; else nothing.

    Raises:
        RunError: an export writes there now.
        StoreError: a file cannot be deleted.
    """
    if not (out / RECORDS_NAME).is_file():
        return f"{out}: an export of this run, which is not there (any more, or from here)"
    plan = hash_file(folder.plan)
    if read_records(out, plan).plan != plan:
        return f"{out}: an export of this run, in whose place is another run's by now"
    with open_records(out, plan) as records:
        description = _description(out)
        theirs = {name: files for name, files in records.files.items() if name in samples}
        linked = {part for part in _parts(records) if (out / part).is_symlink()}
        wanted = {name: files for name, files in records.files.items() if name not in samples}
        for name, files in theirs.items():
            if kept := tuple(file for file in files if file.partition("/")[0] in linked):
                wanted[name] = kept
        records.keep_only(wanted)
        training = (name for name in records.made_from if _is_training(wanted[name]))
        count = len(list(training))
        if description is not None and count and not (out / DESCRIPTION_NAME).exists():
            text = json.dumps({**description, "numTraining": count}, indent=2)
            put(out / DESCRIPTION_NAME, text + "\n")
    if linked and theirs:
        return f"{out}: {', '.join(sorted(linked))} are links; what they point to is not the run's"
    return ""


def take_out_everywhere(folder: RunFolder, samples: Collection[str]) -> tuple[list[str], list[str]]:
    """`take_out` of every export of a run.

    Returns:
        What could not be deleted, and what lies outside the run and is not ours to delete.
    """
    left, outside = [], []
    for out in export_folders(folder):
        try:
            note = take_out(folder, out, samples)
        except (EngineError, OSError) as error:
            left.append(str(error))
        else:
            outside += [note] if note else []
    root = storage_at(folder.root).local
    if root is not None:
        for file in _of_early_versions(root, samples):
            if not file.parent.resolve().is_relative_to(root.resolve()):
                outside.append(f"{file}: behind a link, and not the run's to delete")
                continue
            try:
                file.unlink()
            except OSError as error:
                left.append(f"{file} ({error.strerror})")
    return left, outside


def _of_early_versions(root: Path, samples: Collection[str]) -> Iterator[Path]:
    """Files of exports in the run folder that kept no records."""
    names = {f"{name}{ending}" for name in samples for ending in (".nii.gz", "_0000.nii.gz")}
    for file in sorted(root.glob("export*/*/*.nii.gz")):
        if file.name in names and not (file.parent.parent / RECORDS_NAME).exists():
            yield file


def _is_training(files: Collection[str]) -> bool:
    return any(file.startswith("imagesTr/") for file in files)


def _parts(records: ExportRecords) -> set[str]:
    return {file.partition("/")[0] for files in records.files.values() for file in files}


def _description(out: Path) -> dict[str, object] | None:
    try:
        found = read_json(out / DESCRIPTION_NAME)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _place(folder: RunFolder, out: Path) -> str:
    root = storage_at(folder.root).local
    if root is None:
        return str(out.absolute())
    return os.path.relpath(out.resolve(), root.resolve())


def _lines(folder: RunFolder) -> Iterator[dict[str, object]]:
    for piece in storage_at(folder.exports).appended(MAX_LIST_BYTES):
        for text in piece.decode(errors="replace").splitlines():
            with suppress(ValueError):
                line = parse_json(text)
                if isinstance(line, dict):
                    yield line
