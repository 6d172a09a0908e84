"""What an export folder holds: a list of its own files, so that it takes away these and no others.

`exported.jsonl` names the run (by its plan), then each sample with its files, before they are
written, and with the digest of what they were made from, once they are. A later export of the same
run keeps what still holds and removes what does not belong to it any more (a withdrawn case, a
flagged volume, another layout). Knows no volume.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import RunError, StoreError, os_refusal
from engine.runs.export.target import DESCRIPTION_NAME
from engine.storage.checked_files import MAX_LIST_BYTES, parse_json, read_bytes
from engine.storage.files import append, put, sweep_staged
from engine.storage.foreign import is_litter

RECORDS_NAME = "exported.jsonl"
_OWN_FILE = re.compile(r"(images|labels)(Tr|Ts)?/[A-Za-z0-9_-][A-Za-z0-9_.-]*\.nii\.gz")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_NNUNET_FOLDERS = ("imagesT", "labelsT")
_PART = re.compile(r"\.(.+\.nii\.gz)\.[0-9a-f.]+\.(part|tmp)")  # what `write_nifti` stages


@dataclass
class ExportRecords:
    """The records of one export folder, held while an export works there.

    Attributes:
        out: the export's folder.
        plan: sha256 of the run's plan.
        made_from: sample -> digest of what its files were made from; empty while they are written.
        files: sample -> its files, relative to `out`.
    """

    out: Path
    plan: str
    made_from: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def holds(self, sample_id: str, digest: str, files: Sequence[str]) -> bool:
        """Whether a sample's files are there, and made from what has this digest."""
        return self.made_from.get(sample_id) == digest and all(
            (self.out / name).is_file() for name in files
        )

    def begin(self, sample_id: str, files: Sequence[str]) -> None:
        """Say which files come, so that they are known as ours whatever happens."""
        self._unfinish(files)
        self._add(sample_id, "", files)

    def finish(self, sample_id: str, digest: str, files: Sequence[str]) -> None:
        """Say what the files of a sample were made from."""
        self._add(sample_id, digest, files)

    def keep_only(self, wanted: Mapping[str, Sequence[str]]) -> list[str]:
        """Remove every file of ours that does not belong to the export any more.

        Args:
            wanted: the files of each sample that is to be exported.

        Returns:
            The removed files, relative to `out`.

        Raises:
            StoreError: a file cannot be removed.
        """
        keep = {name for files in wanted.values() for name in files}
        own = {name for files in self.files.values() for name in files}
        removed = []
        for name in sorted(own - keep):
            if os.path.lexists(self.out / name):
                self._unfinish([name])
                self._remove(name)
                removed.append(name)
        self._sweep(own | keep)
        if removed or not self.files.keys() <= wanted.keys():
            self.made_from = {k: v for k, v in self.made_from.items() if k in wanted}
            self.files = {name: tuple(wanted[name]) for name in self.made_from}
            self._rewrite()
        return removed

    def foreign(self) -> list[str]:
        """Files and folders in `out` that no export wrote, relative to it; a folder ends with /."""
        own = {name for files in self.files.values() for name in files}
        return sorted(_foreign(self.out, own))

    def drop_description(self) -> None:
        """Remove nnU-Net's description: the folder is not what it says (any more, or yet)."""
        self._remove(DESCRIPTION_NAME)

    def _unfinish(self, changed: Iterable[str]) -> None:
        if any(name.startswith(_NNUNET_FOLDERS) for name in changed):
            self.drop_description()

    def _remove(self, name: str) -> None:
        cannot = f"{self.out / name}: no longer part of the run, and cannot be removed"
        with os_refusal(StoreError, cannot, "remove it and export again"):
            (self.out / name).unlink(missing_ok=True)

    def _sweep(self, own: Collection[str]) -> None:
        """Remove what a killed export left half written."""
        sweep_staged(self.out)
        for folder in {name.partition("/")[0] for name in own}:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for file in (self.out / folder).iterdir():
                    part = _PART.fullmatch(file.name)
                    if part and f"{folder}/{part[1]}" in own:
                        self._remove(f"{folder}/{file.name}")

    def _add(self, sample_id: str, digest: str, files: Sequence[str]) -> None:
        self.made_from[sample_id] = digest
        self.files[sample_id] = tuple(files)
        append(self.out / RECORDS_NAME, _line(sample_id, digest, files))

    def _rewrite(self) -> None:
        lines = [json.dumps({"plan": self.plan})]
        lines += [_line(name, digest, self.files[name]) for name, digest in self.made_from.items()]
        put(self.out / RECORDS_NAME, "\n".join(lines) + "\n")


@contextmanager
def open_records(out: Path, plan: str) -> Iterator[ExportRecords]:
    """Make the folder, or go on in one that an earlier export of this run began.

    Raises:
        RunError: it holds what this run's export did not write, or another export works there.
        StoreError: it cannot be written, at first or later.
    """
    with contextlib.ExitStack() as stack:
        with os_refusal(
            StoreError, f"{out}: cannot be written", "choose another folder with --out"
        ):
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_only_one(out))
            records = _records_for(out, plan)
        try:
            yield records
        except OSError as error:
            if error.errno not in _NO_ROOM or isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{error.filename or out}: cannot be written ({error.strerror}); free disk space, "
                "or make the folder writable, and export again: what is there is kept"
            ) from None


def _records_for(out: Path, plan: str) -> ExportRecords:
    path = out / RECORDS_NAME
    if not path.is_file():
        if any(not is_litter(file.name) for file in out.iterdir()):
            raise RunError(
                f"{out}: holds files that no export wrote; choose an empty folder with --out"
            )
        append(path, json.dumps({"plan": plan}))
    records = read_records(out, plan)
    if records.plan != plan:
        raise RunError(f"{out}: holds the export of another run; choose an empty folder with --out")
    return records


def read_records(out: Path, plan: str = "") -> ExportRecords:
    """The records of an export folder as they stand on disk; torn lines are passed over.

    Args:
        out: the export's folder.
        plan: of the run, when the records do not name one.
    """
    records = ExportRecords(out, plan)
    for line in _lines(out / RECORDS_NAME):
        if isinstance(line.get("plan"), str):
            records.plan = line["plan"]
        name, digest = line.get("sample_id"), line.get("sha256", "")
        if isinstance(name, str) and isinstance(digest, str):
            before = records.files.get(name, ())
            records.made_from[name] = digest
            records.files[name] = tuple(dict.fromkeys((*before, *_files(name, line))))
    return records


def _files(sample_id: str, line: Mapping[str, Any]) -> list[str]:
    """The files that a line names; early versions named none, and had two layouts."""
    named = line.get("files")
    if not isinstance(named, list):
        named = [
            f"images/{sample_id}.nii.gz",
            f"labels/{sample_id}.nii.gz",
            f"imagesTr/{sample_id}_0000.nii.gz",
            f"labelsTr/{sample_id}.nii.gz",
        ]
    return [name for name in named if isinstance(name, str) and _OWN_FILE.fullmatch(name)]


def _foreign(out: Path, own: Collection[str]) -> Iterator[str]:
    folders = {name.partition("/")[0] for name in own}
    for entry in os.scandir(out):
        if entry.name in (RECORDS_NAME, DESCRIPTION_NAME):
            continue
        if entry.name in folders and entry.is_dir():
            inside = (f"{entry.name}/{found.name}" for found in os.scandir(entry.path))
            yield from (name for name in inside if name not in own)
        else:
            yield f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _line(sample_id: str, digest: str, files: Sequence[str]) -> str:
    """A line of the records; without a digest the files are not (all) written yet."""
    made_from = {"sha256": digest} if digest else {}
    return json.dumps({"sample_id": sample_id, **made_from, "files": list(files)})


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in read_bytes(path, MAX_LIST_BYTES).decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            line = parse_json(text)
            if isinstance(line, dict):
                yield line


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """A lock on the folder itself, which leaves no file; nothing where a disk has no such locks."""
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{out}: another export writes here; wait for it, or choose a folder with --out"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
