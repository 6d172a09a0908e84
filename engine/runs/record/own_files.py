"""The files that a run cannot do without: run.yaml, plan.jsonl and its digest, the commit records.

Each names what another holds, so that a file that is missing, cut or swapped is found before
anything is made, deleted or exported, and the refusal says how to repair it. The plan can be
derived again from the settings; run.yaml cannot. Knows no voxels and no Ray.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from engine.errors import MalformedFileError, StoreError
from engine.log import get_logger
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import RunIdentity, read_identity, write_or_check
from engine.runs.record.plan import PlanRow, iter_plan, refuse_doubles, write_rows
from engine.storage.checked_files import read_text
from engine.storage.digests import hash_file
from engine.storage.files import put, whole_file

log = get_logger(__name__)

Rows = Callable[[], Iterable[PlanRow]]

_DIGEST = re.compile(r"([0-9a-f]{64}) [ *]plan\.jsonl\s*")
_FROM_A_COPY = "put it back from a copy, or make a new run with --out"
_DERIVE = "start the run's job again with the same settings: it plans again and compares"


def check_run(folder: RunFolder) -> RunIdentity:
    """Make sure that a run's own files are there and agree; changes nothing.

    Returns:
        Content of run.yaml.

    Raises:
        StoreError: one is missing, damaged, or not the one that was written.
        RunError: the run was made by a later version.
    """
    identity = read_identity(folder.identity)
    if not folder.plan.is_file():
        raise StoreError(f"{folder.plan}: missing; {_DERIVE}")
    kept = read_plan_digest(folder)
    if kept is None:
        _read_through(folder)  # a line that is no row says more than a digest that is gone
        if identity.format > 1 or folder.plan_digest.exists():
            raise StoreError(f"{folder.plan_digest}: missing or damaged; {_DERIVE}")
    else:
        _compare(folder, kept)
    return identity


def settle_identity(folder: RunFolder, identity: RunIdentity) -> None:
    """Write run.yaml of a new run; compare with it, and it with a commit record, in an old one.

    Raises:
        RunError: settings, weights or data differ; names each difference.
        StoreError: run.yaml is gone or damaged, or the volumes were made by another one.
    """
    if not folder.identity.exists() and (folder.plan.exists() or _has_work(folder)):
        raise StoreError(
            f"{folder.identity}: missing, and nothing else says with which settings and weights "
            f"this run was made; {_FROM_A_COPY}"
        )
    if _is_unplanned(folder):  # an earlier start was refused: its settings bind nobody
        folder.identity.unlink(missing_ok=True)
    write_or_check(folder.identity, identity)
    found = read_identity(folder.identity)
    for sample_id in sorted(ledger.committed_ids(folder, whole=True))[:1]:
        commit = ledger.existing(folder, sample_id)
        made = (found.settings_sha256, found.weights_sha256)
        if commit is not None and (commit.config_sha256, commit.weights_sha256) != made:
            raise StoreError(
                f"{folder.identity}: not the one that {sample_id} was made by (other settings, "
                f"data or weights); {_FROM_A_COPY}"
            )


def settle_plan(folder: RunFolder, rows: Rows) -> None:
    """Make sure that the plan is there and is the one that was written; plan where there is none.

    The digest is on disk before the plan is: a plan without one is never the work of a job that
    was killed. A plan or a digest that is gone is derived again and compared with what is left.

    Args:
        folder: the run, whose run.yaml agrees with the settings (see `settle_identity`).
        rows: decides the plan's rows.

    Raises:
        StoreError: the plan is not the one that was written.
        RunError: two rows have one name.
    """
    kept = read_plan_digest(folder)
    if not folder.plan.exists():
        _plan(folder, rows, kept if _has_work(folder) else None)
    elif kept is not None:
        _compare(folder, kept)
    else:
        _reseal(folder, rows)


def read_plan_digest(folder: RunFolder) -> str | None:
    """sha256 that the plan had when it was written; None where its file is missing or damaged."""
    try:
        found = _DIGEST.fullmatch(read_text(folder.plan_digest))
    except (FileNotFoundError, MalformedFileError):
        return None
    return found.group(1) if found else None


def seal_plan(folder: RunFolder, digest: str | None = None) -> None:
    """Write the digest of a plan; None computes that of the plan that is there."""
    put(folder.plan_digest, f"{digest or hash_file(folder.plan)}  {folder.plan.name}\n")


def _compare(folder: RunFolder, kept: str) -> None:
    digest = hash_file(folder.plan)
    if kept != digest:
        raise StoreError(
            f"{folder.plan}: changed after it was planned (sha256 {digest[:12]}..., planned as "
            f"{kept[:12]}...); put back the plan as it was, or delete it and "
            f"{_DERIVE}"
        )


def _plan(folder: RunFolder, rows: Rows, kept: str | None) -> None:
    """Plan, and seal; where volumes exist, only a plan that they were made by."""
    log.info("planning")
    committed = ledger.committed_ids(folder, whole=True)
    with whole_file(folder.plan) as file:
        count, digest = write_rows(file, _made_by(folder, rows(), committed))
        if kept not in (None, digest):
            raise StoreError(
                f"{folder.plan}: missing, and these settings now give another plan than the one "
                f"that was written; {_FROM_A_COPY}"
            )
        seal_plan(folder, digest)
    log.info("%d volumes planned", count)


def _reseal(folder: RunFolder, rows: Rows) -> None:
    """Seal a plan whose digest is gone, if it is what the settings give."""
    _read_through(folder)
    log.warning("%s: missing or damaged; planning again to compare", folder.plan_digest)
    count, digest = write_rows(None, rows())
    if digest != hash_file(folder.plan):
        raise StoreError(
            f"{folder.plan}: not what these settings plan ({count} volumes), and its "
            f"digest {folder.plan_digest.name} is gone; delete the plan and start the job again, "
            "or put both files back from a copy"
        )
    seal_plan(folder, digest)


def _read_through(folder: RunFolder) -> None:
    for _ in refuse_doubles(iter_plan(folder.plan)):
        pass


def _made_by(folder: RunFolder, rows: Iterable[PlanRow], committed: set[str]) -> Iterator[PlanRow]:
    """The rows as they come, each compared with its volume where there is one."""
    left = set(committed)
    for row in rows:
        if row.sample_id in left:
            left.remove(row.sample_id)
            commit = ledger.existing(folder, row.sample_id)
            if commit is not None and commit.row_sha256 not in ("", row.sha256):
                left.add(row.sample_id)
        yield row
    if left:
        names = sorted(left)
        raise StoreError(
            f"{folder.plan}: missing, and these settings plan {len(names)} volumes otherwise than "
            f"they were made (the first is {names[0]}); {_FROM_A_COPY}"
        )


def _is_unplanned(folder: RunFolder) -> bool:
    """Whether no plan was ever written here: its digest comes before the plan and its volumes."""
    written = folder.plan.exists() or folder.plan_digest.exists()
    return not (written or _has_work(folder))


def _has_work(folder: RunFolder) -> bool:
    return bool(ledger.committed_ids(folder) or ledger.attempted_ids(folder))
