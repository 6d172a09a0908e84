"""Withdrawn cases of a run: remembered in its folder, so that no rerun makes of them what is gone.

The list holds names that the plan holds too, and no more: the names of a patient's cases and slice
files are needed to refuse their volumes. It is on disk before anything is deleted, and whoever
commits a volume looks into it before and after, so that a worker on its way brings nothing back.
Knows no volume and deletes nothing (see `audit/remove_patient.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable

from engine.errors import RunError, StoreError, StoreUnreachableError
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow
from engine.storage.checked_files import read_json, read_text
from engine.storage.files import put


class WithdrawnError(RunError):
    """A volume is not to exist: a withdrawn case is part of it."""


def read_withdrawn(folder: RunFolder) -> frozenset[str]:
    """Names of cases and slice files that were withdrawn from a run.

    Raises:
        StoreError: the list is damaged, or lacks names. Nothing may be made then: it could be of
            such a case.
    """
    try:
        names = frozenset(str(name) for name in read_json(folder.withdrawn)["cases"])
    except FileNotFoundError:
        names = frozenset()
    except StoreUnreachableError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(
            f"{folder.withdrawn}: cannot read which cases were withdrawn; write "
            '{"cases": ["CASE", ...]} into it before any job works here'
        ) from None
    lost = _traces(folder) - {_trace(name) for name in names}
    if lost:
        raise StoreError(
            f"{folder.withdrawn}: {len(lost)} of the withdrawn names are gone from it; put it back "
            'from a copy, or write them into it ({"cases": ["CASE", ...]})'
        )
    return names


def remember(folder: RunFolder, *names: str) -> None:
    """Add cases and slice files to the withdrawn ones."""
    known = sorted(read_withdrawn(folder).union(names))
    put(folder.withdrawn, json.dumps({"cases": known}) + "\n")
    put(folder.withdrawn_traces, "".join(f"{_trace(name)}\n" for name in known))


def _trace(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _traces(folder: RunFolder) -> set[str]:
    """What tells of names whose list is deleted or cut; older runs have none."""
    try:
        return set(read_text(folder.withdrawn_traces).split())
    except FileNotFoundError:
        return set()


def is_withdrawn(row: PlanRow, withdrawn: Collection[str]) -> bool:
    """Whether a withdrawn case is part of a volume."""
    return bool(withdrawn) and not row.names.isdisjoint(withdrawn)


def refuse_withdrawn(folder: RunFolder, sample_id: str, names: Iterable[str]) -> None:
    """Refuse to make a volume of what was withdrawn.

    Args:
        folder: the run.
        sample_id: of the volume.
        names: of the cases and slice files that are part of it.

    Raises:
        WithdrawnError: one of them was withdrawn.
        StoreError: the record is damaged.
    """
    gone = read_withdrawn(folder).intersection(names)
    if gone:
        raise WithdrawnError(f"{sample_id}: {', '.join(sorted(gone))} was withdrawn from this run")
