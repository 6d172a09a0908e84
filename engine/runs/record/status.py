"""Where a run stands: plan minus commits minus quarantine, minus what is skipped or withdrawn.

Reads the plan row by row and names of records only, so that it takes seconds for 100,000 volumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow, iter_plan, refuse_doubles
from engine.runs.record.withdrawal import is_withdrawn, read_withdrawn


@dataclass
class RunState:
    """Where a run stands: plan minus commits minus quarantine.

    Attributes:
        planned: volumes that are to exist.
        skipped: rows that the compatibility gate ruled out.
        withdrawn: rows that a withdrawn case is part of.
        barred: quarantined samples.
        pending: (slices, sample_id, row as JSON) of what is to be made.
    """

    planned: int = 0
    skipped: int = 0
    withdrawn: int = 0
    barred: list[str] = field(default_factory=list)
    pending: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def committed(self) -> int:
        """Volumes that exist."""
        return self.planned - len(self.barred) - len(self.pending)


def active_rows(folder: RunFolder) -> Iterator[PlanRow]:
    """Rows of the plan that are to exist: neither skipped by the gate nor withdrawn."""
    gone = read_withdrawn(folder)
    for row in iter_plan(folder.plan):
        if not is_skipped(row) and not is_withdrawn(row, gone):
            yield row


def is_skipped(row: PlanRow) -> bool:
    """Whether the compatibility gate ruled a row out."""
    return row.gate is not None and row.gate.verdict == "skipped"


def read_state(folder: RunFolder) -> RunState:
    """Plan minus commits minus quarantine. The caller holds the run's lock.

    Raises:
        StoreError: the plan, or a record that counts, is damaged.
        RunError: two rows of the plan have one name.
    """
    state = RunState()
    gone = read_withdrawn(folder)
    committed = ledger.committed_ids(folder, whole=True)
    committed |= ledger.clear_staging(folder, committed)
    attempted = ledger.attempted_ids(folder)
    back = ledger.committed_ids(folder) | ledger.stored_ids(folder) if gone else set()
    for row in refuse_doubles(iter_plan(folder.plan)):
        if is_withdrawn(row, gone):
            state.withdrawn += 1
            if row.sample_id in back:  # the withdrawal was cut off, or a worker was late
                ledger.delete(folder, row.sample_id)
        elif is_skipped(row):
            state.skipped += 1
        else:
            state.planned += 1
            if row.sample_id not in committed:
                _to_make(folder, row, row.sample_id in attempted, state)
    state.pending.sort(key=lambda item: -item[0])  # long ones first; stable
    return state


def _to_make(folder: RunFolder, row: PlanRow, attempted: bool, state: RunState) -> None:
    name = row.sample_id
    if attempted:
        ledger.mark_interrupted(folder, [name])
        if ledger.num_failures(folder, name) >= ledger.MAX_FAILURES:
            state.barred.append(name)
            return
    state.pending.append((row.num_slices, name, row.model_dump_json()))
