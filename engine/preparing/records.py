"""What a folder of prepared cases already holds, so that a second call does only the rest.

`prepare.json` names the settings, `prepared.jsonl` the cases that are done and how their source
files looked then. Knows no Ray and prepares nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config import FrozenConfig, validate
from engine.errors import MalformedFileError, RunError, StoreError, VolumeError, os_refusal
from engine.storage.checked_files import MAX_LIST_BYTES, read_bytes, read_json
from engine.storage.digests import hash_file
from engine.storage.files import append
from engine.volumes.layouts import CaseFiles
from engine.volumes.prepared.manifest import SETTINGS_NAME, PreparedEntry
from engine.volumes.prepared.prepare import PrepareConfig
from engine.volumes.reading import source_files
from engine.volumes.store import hash_tree

Row = dict[str, Any]

_RECORDS = "prepared.jsonl"


class CaseRecord(FrozenConfig):
    """A line of prepared.jsonl: a case that is done, and how its sources looked then."""

    case_id: str
    stamp: str
    entry: PreparedEntry

    def add(self, out: Path) -> None:
        """Append this line to the folder's records."""
        append(out / _RECORDS, self.model_dump_json())


def open_folder(out: Path, config: PrepareConfig) -> None:
    """Make the folder, or refuse one that holds cases of other settings.

    Raises:
        RunError: the folder's settings differ; names them.
        StoreError: the folder cannot be written.
    """
    settings = out / SETTINGS_NAME
    wanted = config.model_dump_json(indent=1)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not settings.exists():
            settings.write_text(wanted + "\n", encoding="utf-8")
            return
        found = read_json(settings)
    except MalformedFileError as error:
        reason = str(error).removeprefix(f"{settings}: ")
        raise StoreError(
            f"{settings}: damaged ({reason}); delete the folder and prepare anew"
        ) from None
    except OSError as error:
        raise StoreError(
            f"{out}: cannot be written ({error.strerror}); choose another folder with --out"
        ) from None
    before = validate(PrepareConfig, found, where=str(settings))
    if before != config:
        other = [k for k in PrepareConfig.model_fields if getattr(before, k) != getattr(config, k)]
        raise RunError(
            f"{out}: holds cases prepared with other settings ({', '.join(other)}); "
            "choose another folder with --out, or delete this one"
        )


def row_of(case: CaseFiles, dataset: str) -> Row:
    """A case as a row of plain values, for Ray.

    Raises:
        StoreError: a source file cannot be looked at.
    """
    files = {"image": case.image, "mask": case.mask, "brain_mask": case.brain_mask}
    stamps = [_stamp(part) for file in files.values() if file for part in _parts(file)]
    return {
        "case_id": case.case_id,
        "dataset": dataset,
        "split": case.split,
        "channel": case.channel,
        "stamp": json.dumps(stamps if case.channel is None else [*stamps, case.channel]),
        **{role: str(file.resolve()) if file else "" for role, file in files.items()},
    }


def refuse_taken(out: Path, rows: Sequence[Row], before: dict[str, CaseRecord]) -> None:
    """Refuse case ids that another data set brought into the folder.

    Raises:
        RunError: names them.
    """
    taken = [
        row["case_id"]
        for row in rows
        if row["case_id"] in before and before[row["case_id"]].entry.dataset != row["dataset"]
    ]
    if taken:
        raise RunError(
            f"{out}: the case ids {taken[:10]} are there already, from another data set; "
            "choose another folder with --out, or rename the cases"
        )


def is_kept(out: Path, row: Row, before: dict[str, CaseRecord]) -> bool:
    """Whether a case is there, undamaged and made from the files as they are now."""
    record = before.get(row["case_id"])
    if record is None or (record.stamp, record.entry.split) != (row["stamp"], row["split"]):
        return False
    try:  # size and time alone can be those of another file
        return (
            tree_digest(out / f"{row['case_id']}.zarr") == record.entry.sha256
            and source_digests(row) == record.entry.sources
        )
    except (StoreError, VolumeError, OSError):
        return False


def files_of(row: Row) -> tuple[dict[str, Path], int | None]:
    """The source files of a row by their role, and the channel of a 4D image."""
    files = {role: Path(row[role]) for role in ("image", "mask", "brain_mask") if row[role]}
    return files, row.get("channel")


def source_digests(row: Row) -> dict[str, str]:
    """Role and name of every source file -> its sha256; a channel of a 4D file is named."""
    files, channel = files_of(row)
    found = {}
    for role, file in files.items():
        for part in source_files(file):
            chosen = f"#channel{channel}" if role == "image" and channel is not None else ""
            found[f"{role}/{part.name}{chosen}"] = hash_file(part)
    return found


def read_records(out: Path) -> dict[str, CaseRecord]:
    """Cases that earlier calls finished; a torn line counts as not finished."""
    records: dict[str, CaseRecord] = {}
    path = out / _RECORDS
    if not path.exists():
        return records
    for line in read_bytes(path, MAX_LIST_BYTES).decode(errors="replace").splitlines():
        with contextlib.suppress(ValidationError):
            record = CaseRecord.model_validate_json(line)
            if (out / f"{record.case_id}.zarr").is_dir():
                records[record.case_id] = record
    return records


def _parts(file: Path) -> tuple[Path, ...]:
    """A file, and what belongs to it; one whose header is wrong is refused when it is read."""
    try:
        return source_files(file)
    except VolumeError:
        return (file,)


def _stamp(path: Path) -> list[str | int]:
    """Tells cheaply whether a source file is still the one that was read."""
    with os_refusal(StoreError, f"{path}: cannot be read", "check permissions"):
        stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def tree_digest(path: Path) -> str:
    """One sha256 over the names and hashes of all files of a folder.

    Raises:
        StoreError: the folder is missing or empty.
    """
    return hashlib.sha256(json.dumps(hash_tree(path), sort_keys=True).encode()).hexdigest()
