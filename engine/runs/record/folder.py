"""A run folder: where its files lie, on disk or in an object store, and its lock.

What the files mean is the business of `ledger/`, `plan.py` and `identity.py`, and of
`making/progress.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import RunError, os_refusal
from engine.log import get_logger
from engine.storage.backends.find import storage_at
from engine.storage.locks.lock import Lock
from engine.storage.locks.lock_at import binds_other_machines, last_number, lock_at
from engine.storage.places import Place

log = get_logger(__name__)

_LOCK = "lock"


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run folder (see `docs`, "A run on disk"). Creates nothing by itself."""

    root: Place

    @property
    def identity(self) -> Place:
        """Resolved configuration, versions, sha256 of weights and data."""
        return self.root / "run.yaml"

    @property
    def plan(self) -> Place:
        """One JSON row a volume, written before any work."""
        return self.root / "plan.jsonl"

    @property
    def plan_digest(self) -> Place:
        """sha256 of the plan as it was written; `sha256sum --check` reads it."""
        return self.root / "plan.sha256"

    @property
    def progress(self) -> Place:
        """Events of all workers and all starts, in the order they were written."""
        return self.root / "progress.jsonl"

    @property
    def failures(self) -> Place:
        """One JSON line a failed attempt."""
        return self.root / "failures.jsonl"

    @property
    def summary(self) -> Place:
        """Counts, measures and timings of the whole run."""
        return self.root / "summary.json"

    @property
    def table(self) -> Place:
        """One JSON line a committed volume: what the summary averages."""
        return self.root / "volumes.jsonl"

    @property
    def report(self) -> Place:
        """The page a person looks at."""
        return self.root / "report.html"

    @property
    def commits(self) -> Place:
        """Commit records; a volume without one does not exist."""
        return self.root / "commits"

    @property
    def withdrawn(self) -> Place:
        """Cases that were withdrawn: nothing is made of them any more."""
        return self.root / "withdrawn.json"

    @property
    def withdrawn_traces(self) -> Place:
        """sha256 of each name in `withdrawn`, a line each: tells when that is deleted or cut."""
        return self.root / "withdrawn.sha256"

    @property
    def exports(self) -> Place:
        """Folders that the run was exported to, a JSON line each."""
        return self.root / "exports.jsonl"

    @property
    def cohort(self) -> Place:
        """What the cohort's real volumes are like, for the gates."""
        return self.root / "cohort.json"

    @property
    def evaluation(self) -> Place:
        """What jobs/evaluate_run.py found: metrics.json and its plot."""
        return self.root / "evaluation"

    @property
    def attempts(self) -> Place:
        """Attempt records, counted over restarts."""
        return self.root / "attempts"

    @property
    def staging(self) -> Place:
        """Volumes being written; nothing in here counts."""
        return self.root / "staging"

    @property
    def volumes(self) -> Place:
        """All volumes."""
        return self.root / "volumes"

    def volume(self, sample_id: str) -> Place:
        """Final place of a sample's volume; in an object store that of all attempts at it.

        Which attempt's volume is the sample's says its commit record (see `ledger.volume_of`).
        """
        return self.volumes / f"{sample_id}{self.volume_ending}"

    @property
    def volume_ending(self) -> str:
        """What follows a sample's name in that of its volume; nothing where attempts lie below."""
        return ".ome.zarr" if storage_at(self.root).can_rename else ""

    def commit(self, sample_id: str) -> Place:
        """Place of a sample's commit record."""
        return self.commits / f"{sample_id}.json"

    def create(self) -> None:
        """Make the folders of a run.

        Raises:
            RunError: the place cannot be written to, or a folder of the run is a link.
            StoreError: the object store cannot be used.
        """
        self.refuse_links()
        cannot = f"{self.root}: cannot make a run folder here"
        with os_refusal(RunError, cannot, "choose another place with --out"):
            storage_at(self.root).prepare(self._parts())
        for path in (self.root, *self._parts()):
            if not storage_at(path).is_writable():
                raise RunError(
                    f"{path}: cannot be written to; ask its owner to share the run "
                    "(chmod -R g+rwX), or choose another place with --out"
                )

    def refuse_links(self) -> None:
        """Refuse a run whose folders lie elsewhere: jobs delete in them.

        Raises:
            RunError: names the link.
        """
        for path in self._parts():
            if storage_at(path).link_target() is not None:
                raise RunError(
                    f"{path}: a link, and jobs delete what lies there; put a real folder in its "
                    "place (the run folder itself may be a link)"
                )

    def _parts(self) -> tuple[Place, ...]:
        return (self.volumes, self.commits, self.attempts, self.staging)


def no_run(folder: RunFolder) -> str:
    """What to say of a folder that is none of a run, and which one may have been meant."""
    around = RunFolder(folder.root.parent)
    what = f"{folder.root}: not a run folder (no plan.jsonl)"
    if any(path.is_file() for path in (around.plan, around.identity)):
        return f"{what}; it lies in one: give {around.root}"
    return f"{what}; give one that a job made"


def lock_run(folder: RunFolder) -> Lock:
    """Holds a run folder for one driver process; what workers commit carries its number.

    Raises (on entering):
        RunError: another job works on this folder, or it cannot be written to.
    """
    return lock_at(folder.root / _LOCK)


def lock_number(folder: RunFolder) -> int:
    """Number of the last holding of a run's lock; 0 where none is known."""
    return last_number(folder.root / _LOCK)


def is_taken_over(folder: RunFolder, lock: int) -> bool:
    """Whether the run's lock has a higher number by now than `lock`; 0 is unknown."""
    return bool(lock) and lock_number(folder) > lock


def refuse_taken_over(folder: RunFolder, lock: int) -> None:
    """Refuse to work on for a job that has lost the run.

    Args:
        folder: the run.
        lock: number of the lock that the job held; 0 is unknown, which is never refused.

    Raises:
        RunError: the run's lock has a higher number by now.
    """
    if is_taken_over(folder, lock):
        raise RunError(
            f"{folder.root}: another job took this run over; what is committed stays, and that job "
            "makes the rest: wait for it",
            fault="store",
        )


def try_lock_from_here(folder: RunFolder) -> None:
    """Say so when the lock that a job on another machine holds does not bind this machine."""
    if binds_other_machines(folder.root / _LOCK) is False:
        log.warning(
            "%s: locks of this file system hold on one machine only; start jobs on this run from "
            "one machine, or mount it with locks", folder.root,
        )  # fmt: skip
