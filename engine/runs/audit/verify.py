"""Proof that a run holds what it says: every committed byte re-read and hashed, all names compared.

Reads plan, commit records and volumes; finds what is missing, torn, empty, changed, too much, made
of something else than planned, or not valid OME-Zarr 0.5 (what is looked at in one volume stands in
`volume_check.py`). On request it deletes what is damaged (a rerun then makes it again), lists the
volumes that a patient is part of, and withdraws them. Knows no model and no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Annotated, TypeVar

from pydantic import Field

from engine.config import FrozenConfig
from engine.errors import ConfigError, RunError
from engine.log import get_logger
from engine.paths import WRITTEN
from engine.runs.audit.foreign_files import foreign_in_run, remove_all
from engine.runs.audit.remove_patient import Removal, own_places, remove_deleted
from engine.runs.audit.volume_check import FOREIGN, Finding, Origin, check_volume, planned_origin
from engine.runs.audit.withdraw import finish_withdrawals, withdraw_patient
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_run, no_run
from engine.runs.record.own_files import check_run
from engine.runs.record.patients import find_patient
from engine.runs.record.plan import PlanRow, iter_plan, refuse_doubles
from engine.runs.record.withdrawal import is_withdrawn, read_withdrawn
from engine.storage.backends.find import storage_at
from engine.storage.places import Place, PlaceField

log = get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")
_SAY_EVERY = 50


class VerifyJob(FrozenConfig):
    """Settings of jobs/verify_run.py.

    Attributes:
        run: the run folder; required.
        repair: delete what is damaged, so that the job that made the run makes it again, and remove
            foreign files.
        derived_from: list the volumes that this patient's (or case's) masks or slices are part of,
            and do no more.
        withdraw: remove everything of this patient (or case) from the run and its exports, never
            make it again, and say what lies elsewhere.
        num_threads: files are hashed side by side.
    """

    run: Annotated[PlaceField, WRITTEN] | None = None
    repair: bool = False
    derived_from: str | None = None
    withdraw: str | None = None
    num_threads: int = Field(2, ge=1, le=64)


@dataclass
class Verdict:
    """What verification found.

    Attributes:
        planned: rows of the plan.
        committed: commit records.
        sound: volumes without a finding.
        findings: damage.
        leftovers: volumes without a commit record; they do not exist, and a rerun replaces them.
        repaired: samples whose volume and record were deleted.
        undeleted: files of deleted volumes that could not be removed, and why. They do not exist
            for any reader, and take up space.
        foreign: files that no job put there; they harm nothing.
        removed: those of them that were removed.
    """

    planned: int = 0
    committed: int = 0
    sound: int = 0
    findings: list[Finding] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    undeleted: list[str] = field(default_factory=list)
    foreign: list[Finding] = field(default_factory=list)
    removed: list[Finding] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing damaged is left."""
        return {finding.sample_id for finding in self.findings} <= set(self.repaired)

    @property
    def missing(self) -> int:
        """Planned volumes that do not exist (yet)."""
        return self.planned - self.committed + len(self.repaired)


def open_run(root: Place | None) -> RunFolder:
    """The run folder that a job names.

    Raises:
        ConfigError: none was given.
        RunError: it is not a run folder, or parts of it are links.
    """
    if root is None:
        raise ConfigError("no run folder; give --run FOLDER")
    folder = RunFolder(root)
    if not any(path.is_file() for path in (folder.plan, folder.identity)):
        raise RunError(no_run(folder))
    if not storage_at(folder.commits).has_folder():
        raise RunError(
            f"{folder.commits}: missing, so that no volume of this run exists; put the folder back "
            "from a copy, or start the run's job again to make all volumes anew"
        )
    folder.refuse_links()
    return folder


def verify_run(job: VerifyJob) -> Verdict:
    """Check a run, and repair it where that is asked.

    Raises:
        ConfigError: no run given.
        RunError: not a run folder, or (to repair) another job works on it.
        StoreError: one of the run's own files is missing, or not the one that was written.
    """
    folder = open_run(job.run)
    if job.repair:
        with lock_run(folder):
            verdict = _examine(folder, job.num_threads)
            _repair(folder, verdict)
            return verdict
    return _examine(folder, job.num_threads)


def derived_from(folder: RunFolder, name: str) -> list[PlanRow]:
    """Rows whose volume uses a patient's masks or slices (or a case's), made or not.

    Raises:
        RunError: the run has no such patient; names those that it has.
        StoreError: one of the run's own files is missing, or not the one that was written.
    """
    return list(find_patient(folder, check_run(folder), name).rows)


def withdraw(folder: RunFolder, name: str) -> list[str]:
    """Remove everything of a patient; see `withdraw_patient`.

    Returns:
        The samples that are gone.
    """
    return withdraw_patient(folder, name).samples


def _examine(folder: RunFolder, num_threads: int) -> Verdict:
    verdict = Verdict()
    identity = check_run(folder)
    settings, weights = identity.settings_sha256, identity.weights_sha256
    committed = ledger.committed_ids(folder)
    gone = read_withdrawn(folder)
    planned: dict[str, Origin | None] = {}
    gone_rows: list[PlanRow] = []
    for row in refuse_doubles(iter_plan(folder.plan)):
        withdrawn = is_withdrawn(row, gone)
        verdict.planned += not withdrawn
        origin = planned_origin(row, settings, weights, identity.format)
        planned[row.sample_id] = None if withdrawn else origin
        if withdrawn:
            gone_rows.append(row)
        if withdrawn and (row.sample_id in committed or folder.volume(row.sample_id).exists()):
            finding = Finding(row.sample_id, "withdrawn", "a withdrawn case is part of it")
            verdict.findings.append(finding)
    for place in own_places(folder, gone, gone_rows):
        verdict.findings.append(Finding("", "withdrawn", f"{place} is a withdrawn case's"))
    for name in sorted(committed - planned.keys()):
        if ledger.existing(folder, name):  # what is no record is a foreign file
            verdict.findings.append(Finding(name, "not planned", f"{folder.commit(name).name}"))
        else:
            committed.remove(name)
    verdict.committed = len(committed)
    names = [name for name, origin in planned.items() if name in committed and origin]

    def look(name: str) -> list[Finding]:
        return list(check_volume(folder, name, planned[name]))

    for done, found in enumerate(_in_order(look, names, num_threads), start=1):
        damage = [finding for finding in found if finding.kind != FOREIGN]
        verdict.foreign += [finding for finding in found if finding.kind == FOREIGN]
        verdict.findings += damage
        verdict.sound += not damage
        if done % _SAY_EVERY == 0 or done == len(names):
            log.info("%d of %d volumes read, %d findings", done, len(names), len(verdict.findings))
    verdict.leftovers = sorted((ledger.stored_ids(folder) & planned.keys()) - committed)
    verdict.foreign += foreign_in_run(folder, planned.keys() | committed)
    return verdict


def _repair(folder: RunFolder, verdict: Verdict) -> None:
    finish_withdrawals(folder)
    verdict.findings = [finding for finding in verdict.findings if finding.sample_id]
    damaged = dict.fromkeys(finding.sample_id for finding in verdict.findings)
    removal = Removal()
    for name in [*damaged, *verdict.leftovers]:
        if removal.attempt(folder.volume(name), partial(ledger.delete, folder, name)):
            log.info("%s: deleted", name)
            verdict.repaired += [name] if name in damaged else []
    remove_deleted(folder, removal)
    verdict.undeleted = removal.left
    verdict.removed = remove_all(folder, verdict.foreign)
    if damaged:
        folder.summary.unlink(missing_ok=True)  # it speaks of volumes that are gone


def _in_order(work: Callable[[T], R], items: Sequence[T], num_threads: int) -> Iterator[R]:
    """Results in order, with a few items ahead: a run of any length takes little memory."""
    with ThreadPoolExecutor(num_threads, "verify") as pool:
        rest = iter(items)
        ahead = [pool.submit(work, item) for item in islice(rest, 4 * num_threads)]
        while ahead:
            yield ahead.pop(0).result()
            ahead += [pool.submit(work, item) for item in islice(rest, 1)]
