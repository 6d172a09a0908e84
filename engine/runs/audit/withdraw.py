"""Withdrawing a patient from a run: all of it, or a refusal that names what is left.

First the list (`record/withdrawal.py`), then the run, then its exports; what lies outside is named.
Knows no command line.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import StoreError
from engine.log import get_logger
from engine.runs.audit.outside_run import kept_names, outside_run
from engine.runs.audit.remove_patient import remove_from_run
from engine.runs.export.known_exports import take_out_everywhere
from engine.runs.record.folder import RunFolder, lock_run
from engine.runs.record.own_files import check_run
from engine.runs.record.patients import Patient, find_patient, patient_of
from engine.runs.record.withdrawal import read_withdrawn, remember

log = get_logger(__name__)

_SHOWN = 20


@dataclass(frozen=True)
class Withdrawal:
    """What was withdrawn.

    Attributes:
        patient: whose data, and which volumes.
        kept: which files of the run go on naming them, and why.
        outside: what is left elsewhere, a line each.
    """

    patient: Patient
    kept: str
    outside: tuple[str, ...]

    @property
    def samples(self) -> list[str]:
        """The volumes that are gone, in the plan's order."""
        return [row.sample_id for row in self.patient.rows]


def withdraw_patient(folder: RunFolder, name: str) -> Withdrawal:
    """Remove everything of a patient from a run and its exports, and never make it again.

    The withdrawal is on disk before anything is deleted: whatever cuts this short, no rerun makes
    these volumes again, and the same call finishes the work. Report, summary, table and cohort
    statistics are deleted, too; the job that made the run writes them anew.

    Args:
        folder: the run.
        name: of a patient, or a case id (then of this case alone).

    Raises:
        RunError: the run has no such patient, or another job works on it.
        StoreError: something could not be deleted; names it.
    """
    identity = check_run(folder)
    patient = find_patient(folder, identity, name)
    with lock_run(folder):
        remember(folder, *patient.names)
        outside = _remove(folder, patient)
        outside += outside_run(folder, identity, patient)
        kept = kept_names(folder)
    return Withdrawal(patient, kept, tuple(outside))


def finish_withdrawals(folder: RunFolder) -> None:
    """Do again what withdrawals may have left. The caller holds the run's lock.

    Raises:
        StoreError: something could not be deleted; names it.
    """
    if names := read_withdrawn(folder):
        _remove(folder, patient_of(folder, ", ".join(sorted(names)), names))


def _remove(folder: RunFolder, patient: Patient) -> list[str]:
    left = remove_from_run(folder, patient)
    samples = {row.sample_id for row in patient.rows}
    undone, outside = take_out_everywhere(folder, samples)
    left += undone
    if left:
        shown = "; ".join(left[:_SHOWN]) + ("; ..." if len(left) > _SHOWN else "")
        raise StoreError(
            f"{patient.name}: the withdrawal is not complete, {len(left)} are left: {shown}; "
            "make them deletable, or wait for who works there, and give the same command again"
        )
    return outside
