"""Random histories of plan, work, crash, damage and rerun, over a fake sampler and a real disk.

Samples are deleted (repair), cases withdrawn, and workers of dead jobs commit late, whenever.

Whatever happens, an undisturbed rerun ends with every planned volume that is not quarantined, each
once, each as it was meant; nobody is quarantined who did not fail three times. Jobs die at any step
that touches the disk. HYPOTHESIS_PROFILE=thorough runs 500 histories, ten_thousand what it says.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from engine.errors import RunError, StoreError
from engine.runs.audit.remove_patient import remove_from_run
from engine.runs.audit.volume_check import check_volume
from engine.runs.planning.rows import CaseFacts, build_plan
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_number, lock_run
from engine.runs.record.patients import patient_of
from engine.runs.record.plan import PlanRow, iter_plan, write_plan
from engine.runs.record.records import Attempt, Commit
from engine.runs.record.status import RunState, read_state
from engine.runs.record.withdrawal import WithdrawnError, remember
from engine.volumes.store import hash_tree
from tests.runs.deadly_disk import Disk, KilledError
from tests.runs.test_ledger import MEASURES

NEVER = st.none()
SOON = st.one_of(NEVER, st.integers(0, 9))


class Histories(RuleBasedStateMachine):
    """One run folder and what should be true of it.

    `least` and `most` bound how often each sample has failed: a kill while a failure was being
    written leaves either.
    """

    def __init__(self) -> None:
        super().__init__()
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.place = Path(tempfile.mkdtemp(prefix="gem3d-", dir=base))
        self.folder = RunFolder(self.place / "run")
        self.disk = Disk()
        self.rows: tuple[PlanRow, ...] = ()
        self.state: RunState | None = None  # of the job at work, if there is one
        self.open: dict[str, bool] = {}  # attempts of killed workers -> were they alone
        self.least: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.lock = 0  # number of the job's holding of the run
        self.late: list[tuple[str, Attempt, Path]] = []  # staged, by workers that hang
        self.withdrawn: set[str] = set()

    def teardown(self) -> None:
        try:
            if self.rows:
                self.finish()
        finally:
            shutil.rmtree(self.place, ignore_errors=True)

    @initialize(num_cases=st.integers(1, 3), replicas=st.integers(1, 2), cut=st.booleans())
    def plan(self, num_cases: int, replicas: int, cut: bool) -> None:
        self.folder.create()
        facts = {f"c{n}": CaseFacts(4 + n, True) for n in range(num_cases)}
        rows = build_plan(facts, list(facts), "own", replicas, 0)
        if cut:  # killed while planning: nothing of it is left
            try:
                write_plan(self.folder.plan, self.cut_off(rows))
            except KilledError:
                assert not self.folder.plan.exists()
        write_plan(self.folder.plan, rows)
        self.rows = tuple(iter_plan(self.folder.plan))
        self.case_of = {row.sample_id: row.case_id for row in self.rows}
        assert self.rows == rows
        self.least = dict.fromkeys((row.sample_id for row in rows), 0)
        self.most = dict(self.least)

    @staticmethod
    def cut_off(rows: tuple[PlanRow, ...]) -> Iterator[PlanRow]:
        yield rows[0]
        raise KilledError

    @precondition(lambda self: self.state is None)
    @rule()
    def start(self) -> None:
        self.take_lock()
        self.state = read_state(self.folder)
        self.open.clear()  # went down with the job: forgiven

    def take_lock(self) -> None:
        """A new holding; the job's death gives it back, its number stays."""
        with lock_run(self.folder) as lock:
            assert lock.number > self.lock
            self.lock = lock.number

    @precondition(lambda self: self.state is not None)
    @rule()
    def kill_job(self) -> None:
        self.state = None

    @precondition(lambda self: self.state is not None and self.state.pending)
    @rule(
        which=st.integers(0, 99),
        good=st.booleans(),
        alone=st.booleans(),
        due=SOON,
        job=st.booleans(),
    )
    def work(self, which: int, good: bool, alone: bool, due: int | None, job: bool) -> None:
        """A worker tries a sample; it may be killed at any step, and the job with it."""
        assert self.state is not None
        name = self.state.pending[which % len(self.state.pending)][1]
        alone = alone or ledger.needs_alone(self.folder, name)
        began = len(ledger.read_attempts(self.folder, name))
        try:
            with self.disk.dies_at(due):
                self.attempt(name, good, alone)
        except KilledError:
            self.most[name] += 2  # the earlier attempt's and this one's may both be written by now
            if len(ledger.read_attempts(self.folder, name)) > began:
                self.open[name] = alone
            if job:
                self.state = None
                self.open.clear()

    @precondition(lambda self: self.state is not None and self.state.pending)
    @rule(which=st.integers(0, 99), alone=st.booleans())
    def hang(self, which: int, alone: bool) -> None:
        """A worker stops before its commit; another one may try the sample meanwhile."""
        assert self.state is not None
        name = self.state.pending[which % len(self.state.pending)][1]
        self.attempt(name, True, alone or ledger.needs_alone(self.folder, name), hangs=True)

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 99), due=SOON)
    def commit_late(self, which: int, due: int | None) -> None:
        """It goes on: its job may be at work, dead, or followed by others."""
        name, attempt, staged = self.late.pop(which % len(self.late))
        before = ledger.existing(self.folder, name)
        try:
            with self.disk.dies_at(due):
                ledger.commit(self.folder, attempt, staged, hash_tree, lambda f: record(name, f))
        except KilledError:
            return
        except WithdrawnError:
            assert self.case_of[name] in self.withdrawn
            assert ledger.existing(self.folder, name) is None
            assert not staged.exists()
            assert not (self.folder.attempts / name).exists(), "nor is it recorded"
        except (RunError, StoreError) as error:
            assert "took this run over" in str(error) or not staged.exists(), error
            after = ledger.existing(self.folder, name)
            assert before == after, "a worker that was refused changed what exists"
        else:
            assert attempt.lock == self.lock, "a worker of a job that lost the run committed"
            self.open.pop(name, None)

    @precondition(lambda self: self.state is None)
    @rule(which=st.integers(0, 99), due=SOON)
    def delete(self, which: int, due: int | None) -> None:
        """Repair deletes a sample; it may be killed at any step."""
        name = self.rows[which % len(self.rows)].sample_id
        self.take_lock()
        try:
            with self.disk.dies_at(due):
                ledger.delete(self.folder, name)
        except KilledError:
            return
        assert ledger.existing(self.folder, name) is None
        assert not self.folder.volume(name).exists()

    @precondition(lambda self: self.state is None)
    @rule(which=st.integers(0, 99), due=SOON, rare=st.integers(0, 3))
    def withdraw(self, which: int, due: int | None, rare: int) -> None:
        """A case is withdrawn; when this is cut short, no rerun makes it, and a call ends it."""
        if rare:
            return
        case_id = self.rows[which % len(self.rows)].case_id
        self.withdrawn.add(case_id)
        with suppress(KilledError), self.disk.dies_at(due):
            self.take_away(case_id)
        self.lock = max(self.lock, lock_number(self.folder))

    def take_away(self, case_id: str) -> None:
        """What withdrawal does in a run: remember the case, delete all that it is part of."""
        with lock_run(self.folder):
            remember(self.folder, case_id)
            left = remove_from_run(self.folder, patient_of(self.folder, case_id, [case_id]))
            assert not left

    def attempt(self, name: str, good: bool, alone: bool, *, hangs: bool = False) -> None:
        if ledger.existing(self.folder, name):
            return
        if self.open.pop(name, False):
            self.most[name] += 1
        try:
            attempt = ledger.begin_attempt(self.folder, name, "w", alone=alone, lock=self.lock)
        except RunError:
            assert self.most[name] >= ledger.MAX_FAILURES, f"{name} is barred without reason"
            return
        staged = ledger.staging_place(self.folder, attempt)
        assert isinstance(staged, Path)
        staged.mkdir()
        (staged / "zarr.json").write_text(name)
        if hangs:
            self.late.append((name, attempt, staged))
            self.open[name] = alone
            return
        if not good:
            self.most[name] += 1
            ledger.fail(self.folder, attempt, "told to fail")
            self.least[name] += 1
            return
        ledger.commit(self.folder, attempt, staged, hash_tree, lambda files: record(name, files))

    @precondition(lambda self: self.state is None)
    @rule(which=st.integers(0, 99), cut=st.integers(0, 60))
    def tear_a_record(self, which: int, cut: int) -> None:
        """A commit record loses its end while no job is at work."""
        names = sorted(ledger.committed_ids(self.folder))
        if names:
            path = self.folder.commit(names[which % len(names)])
            path.write_text(path.read_text()[: -1 - cut])

    @invariant()
    def what_exists_is_whole(self) -> None:
        for name in ledger.committed_ids(self.folder, whole=True):
            commit = ledger.read_commit(self.folder, name)
            assert commit is not None
            assert hash_tree(self.folder.volume(name)) == commit.files
            kinds = {f.kind for f in check_volume(self.folder, name)}
            assert kinds <= {"not OME-Zarr 0.5"}, "the fake store writes no OME-Zarr"

    def finish(self) -> None:
        """One more job, without a disturbance; workers of the jobs before are on their way."""
        for case_id in self.withdrawn:
            self.take_away(case_id)
        self.take_lock()
        state = read_state(self.folder)
        for _, name, _ in state.pending:
            self.open.pop(name, None)
            self.attempt(name, good=True, alone=True)
        while self.late:
            self.commit_late(0, None)
        after = read_state(self.folder)
        assert not after.pending
        planned = {r.sample_id for r in self.rows if not any(map(r.uses, self.withdrawn))}
        barred = set(after.barred)
        committed = ledger.committed_ids(self.folder, whole=True)
        assert committed == planned - barred
        assert {path.name for path in (self.folder.root / "volumes").iterdir()} == {
            f"{name}.ome.zarr" for name in committed | ledger.stored_ids(self.folder) & barred
        }, "what was withdrawn is gone"
        kept = [*self.folder.commits.iterdir(), *self.folder.attempts.iterdir()]
        assert not {p.name.removesuffix(".json") for p in kept} - planned
        for name in committed:
            assert (self.folder.volume(name) / "zarr.json").read_text() == name
        for name in planned:
            assert self.most[name] >= ledger.MAX_FAILURES or name not in barred
            assert self.least[name] < ledger.MAX_FAILURES or name in barred
        assert not list(self.folder.staging.iterdir())


def record(name: str, files: dict[str, str]) -> Commit:
    return Commit(
        sample_id=name,
        case_id=name.partition("-")[0],
        informed_case=name.partition("-")[0],
        informed_z=0,
        target_z=0,
        seed=0,
        attempt=1,
        files=files,
        config_sha256="",
        weights_sha256="",
        num_windows=1,
        joins=(),
        size_zyx=(1, 1, 1),
        timings_s={},
        peak_memory_mb=0.0,
        measures=MEASURES,
        committed_at=0.0,
    )


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    deadline=None,
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
