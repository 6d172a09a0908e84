"""A worker outlives its job, and commits late: the patient was withdrawn meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine.runs.audit.withdraw import withdraw_patient
from engine.runs.making.worker import ResampleWorker, WorkerTask
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import read_identity
from engine.runs.record.plan import iter_plan
from engine.sampling.config import SamplingConfig
from engine.sampling.request import SampledVolume, SampleRequest
from faults.bench import Bench, Fault
from faults.sampler import VICTIM, FakeSampler, LoadFake

_CASE = VICTIM.removesuffix("-r00")
_GONE = frozenset({VICTIM, f"{_CASE}-r01"})


@dataclass(frozen=True)
class LateSampler(FakeSampler):
    """The case is withdrawn while its volume is sampled.

    Attributes:
        run: the run folder.
    """

    run: RunFolder = field(default_factory=lambda: RunFolder(Path()))

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume."""
        withdraw_patient(self.run, _CASE)
        return super().sample(request, on_window)


def late_commit(bench: Bench, out: Path) -> str:
    """Nothing of the patient may come back, by the worker or by the job afterwards."""
    trouble = bench.again(out)
    folder = RunFolder(out)
    ledger.delete(folder, VICTIM)
    row = next(row for row in iter_plan(folder.plan) if row.sample_id == VICTIM)
    config, identity = bench.config(out), read_identity(folder.identity)
    task = WorkerTask(
        root=out,
        data=bench.data,
        weights=config.weights,
        sampling=SamplingConfig(),
        settings_sha256=identity.settings_sha256,
        weights_sha256=identity.weights_sha256,
        code=identity.code,
        num_threads=1,
    )
    worker = ResampleWorker(task, LoadFake(LateSampler(bench.place, run=folder)))
    status = worker({"plan": row.model_dump_json()})["status"]
    if status == "committed" or _GONE & ledger.stored_ids(folder):
        return f"the withdrawn patient came back ({status})"
    trouble = trouble or bench.again(out)
    back = sorted(_GONE & (ledger.stored_ids(folder) | ledger.committed_ids(folder)))
    return trouble or (f"the job made {back} again" if back else "")


FAULTS = (Fault("late commit", late_commit, spared=_GONE),)
