"""Withdrawn cases of a run: remembered in its folder, so that no rerun makes of them what is gone.

Knows no volume and deletes nothing (see `verify.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from engine.errors import StoreError, StoreUnreachableError
from engine.runs.folder import RunFolder
from engine.runs.plan import PlanRow
from engine.storage.checked_files import read_json
from engine.storage.files import put


def read_withdrawn(folder: RunFolder) -> frozenset[str]:
    """Case ids that were withdrawn from a run.

    Raises:
        StoreError: the record is damaged. Nothing may be made then: it could be of such a case.
    """
    try:
        names = read_json(folder.withdrawn)["cases"]
        return frozenset(str(name) for name in names)
    except FileNotFoundError:
        return frozenset()
    except StoreUnreachableError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(
            f"{folder.withdrawn}: cannot read which cases were withdrawn; write "
            '{"cases": ["CASE", ...]} into it before any job works here'
        ) from None


def remember(folder: RunFolder, case_id: str) -> None:
    """Add a case to the withdrawn ones."""
    names = sorted(read_withdrawn(folder) | {case_id})
    put(folder.withdrawn, json.dumps({"cases": names}) + "\n")


def is_withdrawn(row: PlanRow, withdrawn: Iterable[str]) -> bool:
    """Whether a withdrawn case is part of a volume."""
    return any(row.uses(case_id) for case_id in withdrawn)
