"""The summary of a run: counts, measures and timings, from the plan and the commit records alone.

Which numbers there are stands in `engine.evaluation.measures`; here they are only averaged, one
volume after the other. Knows no images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic import Field

from engine.evaluation import measures
from engine.evaluation.measures import Measure, RunFacts, listed_values
from engine.evaluation.values import Measured, Value
from engine.runs.record.plan import PlanRow
from engine.runs.record.records import Commit
from engine.volumes.prepared.class_loss import ClassLoss, GridLoss, loss_notes, total_loss

MAX_LISTED = 1000
"""Volumes that a summary lists."""


class VolumeSummary(Measured):
    """One committed volume, with the values of all measures that are listed.

    Attributes:
        unit: of the intensities among the values.
        seconds: read, sample, measure and write.
        code: commit of the code that its worker ran.
        flags: what the quality gate found wrong with it.
        gate: what the compatibility gate said of its informed slice.
        lost: classes of its mask of which the model's grid loses all, or more than half.
    """

    sample_id: str
    case_id: str
    informed_case: str
    informed_z: int
    num_windows: int
    unit: str
    seconds: float
    attempt: int
    code: str = ""
    flags: tuple[str, ...] = ()
    gate: str = "unchecked"
    lost: tuple[str, ...] = ()


class RunSummary(Measured):
    """Content of summary.json, with the means of measures over the volumes that have them.

    A run of any length has a small one: volumes.jsonl holds what it does not.

    Attributes:
        failed: planned volumes that do not exist after this job.
        quarantined: those of them that are not tried again.
        flagged: existing volumes that the quality gate marked.
        skipped: rows of the plan that the compatibility gate ruled out; not counted as planned.
        withdrawn: rows that a withdrawn case is part of; not counted as planned.
        losing: existing volumes whose mask loses a class, or more than half of one, on the model's
            grid.
        grid_loss: what the model's grid loses of the masks, by class, over the existing volumes.
        num_cases: masks behind the volumes, so that replicas are not taken for patients.
        wall_s: of the job that wrote this, start to end.
        stage_s: sums over volumes, over all jobs of this run.
        peak_memory_mb: largest of any worker, and of the driver.
        volumes: the first `MAX_LISTED`, in plan order; all are in volumes.jsonl.
    """

    planned: int
    committed: int
    failed: int
    quarantined: int
    flagged: int = 0
    skipped: int = 0
    withdrawn: int = 0
    losing: int = 0
    grid_loss: dict[str, ClassLoss] = Field(default_factory=dict)
    num_cases: int
    informed: str
    wall_s: float
    stage_s: dict[str, float]
    peak_memory_mb: dict[str, float]
    volumes: tuple[VolumeSummary, ...]


@dataclass(frozen=True)
class JobFacts:
    """What only the job itself knows.

    Attributes:
        wall_s: seconds since it began.
        driver_memory_mb: its own peak.
        quarantined: samples that it did not try.
        skipped: rows that the compatibility gate ruled out.
        withdrawn: rows that a withdrawn case is part of.
    """

    wall_s: float
    driver_memory_mb: float
    quarantined: int
    skipped: int = 0
    withdrawn: int = 0


Pairs = Callable[[], Iterable[tuple[PlanRow, Commit | None]]]
"""Every row of a plan with its commit record, each time it is called; read twice, never kept."""


def summarize(
    pairs: Pairs, facts: JobFacts, tell: Callable[[VolumeSummary], None] | None = None
) -> RunSummary:
    """Put the numbers of a run together; independent of the order in which volumes came.

    Args:
        pairs: the rows that are to exist, in plan order.
        facts: of the job.
        tell: called with every committed volume, in plan order; the summary holds the first
            `MAX_LISTED`.

    Raises:
        StoreError: a commit record is damaged.
    """
    real = _real_means(pairs())
    sums = _Sums()
    for row, commit in pairs():
        sums.count(row)
        if commit is not None:
            volume = _volume(commit, row, real)
            sums.add(volume, commit)
            if tell is not None:
                tell(volume)
    return sums.summary(facts)


class _Mean:
    """A mean of the numbers that are there."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self._total += value
            self._count += 1

    def value(self, digits: int = 4) -> float | None:
        return round(self._total / self._count, digits) if self._count else None


class _MeasureMean:
    """The mean of one measure over a run, of each class if it has classes."""

    def __init__(self, measure: Measure) -> None:
        assert measure.mean is not None, f"{measure.name} is not averaged"
        self._measure, self._mean = measure, measure.mean
        self._single = _Mean()
        self._classes: dict[str, _Mean] = {}

    @property
    def key(self) -> str:
        """In summary.json."""
        return self._mean.name or self._measure.name

    def add(self, volume: Measured) -> None:
        name = self._measure.name
        if not self._measure.by_class:
            self._single.add(self._sized(volume.number(name)))
        for one, value in volume.by_class(name).items() if self._measure.by_class else ():
            self._classes.setdefault(one, _Mean()).add(self._sized(value))

    def value(self) -> Value:
        digits = self._mean.digits
        if self._measure.by_class:
            return {name: mean.value(digits) or 0.0 for name, mean in self._classes.items()}
        return self._single.value(digits)

    def _sized(self, value: float | None) -> float | None:
        return abs(value) if value is not None and self._mean.absolute else value


class _Sums:
    """What a summary grows from, volume by volume."""

    def __init__(self) -> None:
        self._planned = self._committed = self._flagged = self._losing = 0
        self._grid_loss: GridLoss = {}
        self._informed: dict[str, None] = {}
        self._cases: set[str] = set()
        self._means = [_MeasureMean(m) for m in measures.MEASURES if m.mean is not None]
        self._stage_s: dict[str, float] = {}
        self._worker_mb = 0.0
        self._listed: list[VolumeSummary] = []

    def count(self, row: PlanRow) -> None:
        self._planned += 1
        self._informed[row.informed] = None

    def add(self, volume: VolumeSummary, commit: Commit) -> None:
        self._committed += 1
        self._flagged += bool(volume.flags)
        self._losing += bool(volume.lost)
        self._grid_loss = total_loss([self._grid_loss, commit.grid_loss])
        self._cases.add(volume.case_id)
        for mean in self._means:
            mean.add(volume)
        for stage, seconds in commit.timings_s.items():
            self._stage_s[stage] = round(self._stage_s.get(stage, 0.0) + seconds, 3)
        self._worker_mb = max(self._worker_mb, commit.peak_memory_mb)
        if len(self._listed) < MAX_LISTED:
            self._listed.append(volume)

    def summary(self, facts: JobFacts) -> RunSummary:
        return RunSummary(
            planned=self._planned,
            committed=self._committed,
            failed=self._planned - self._committed,
            quarantined=facts.quarantined,
            flagged=self._flagged,
            skipped=facts.skipped,
            withdrawn=facts.withdrawn,
            losing=self._losing,
            grid_loss=dict(self._grid_loss),
            num_cases=len(self._cases),
            informed=", ".join(self._informed),
            values={mean.key: mean.value() for mean in self._means},
            wall_s=round(facts.wall_s, 1),
            stage_s=self._stage_s,
            peak_memory_mb={"worker": self._worker_mb, "driver": facts.driver_memory_mb},
            volumes=tuple(self._listed),
        )


def _real_means(pairs: Iterable[tuple[PlanRow, Commit | None]]) -> dict[str, float | None]:
    """Means of the measures of real volumes over the cases behind the run, each case once."""
    names = [m.name for m in measures.MEASURES if m.of_real and not m.by_class]
    by_case = {
        commit.case_id: [commit.measures.number(name) for name in names]
        for _, commit in pairs
        if commit is not None
    }
    means = {name: _Mean() for name in names}
    for values in by_case.values():
        for mean, value in zip(means.values(), values, strict=True):
            mean.add(value)
    return {name: mean.value() for name, mean in means.items()}


def _volume(commit: Commit, row: PlanRow, real: dict[str, float | None]) -> VolumeSummary:
    is_own = row.informed == "own" and not row.changes and not row.drawn_mask
    return VolumeSummary(
        sample_id=commit.sample_id,
        case_id=commit.case_id,
        informed_case=commit.informed_case,
        informed_z=commit.informed_z,
        num_windows=commit.num_windows,
        code=commit.code,
        values=listed_values(commit.measures, RunFacts(real, is_own)),
        unit=commit.measures.unit,
        seconds=round(sum(s for stage, s in commit.timings_s.items() if "/" not in stage), 2),
        attempt=commit.attempt,
        flags=commit.quality.flags,
        gate=row.gate.verdict if row.gate else "unchecked",
        lost=loss_notes(commit.grid_loss),
    )
