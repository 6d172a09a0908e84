"""The summary of a run: counts, measures and timings, from the plan and the commit records alone.

What each number means stands in `engine/evaluation`; here they are only averaged. Knows no images.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.config import FrozenConfig
from engine.evaluation.fidelity import mean_errors
from engine.runs.plan import PlanRow
from engine.runs.records import Commit, Measures


class VolumeSummary(FrozenConfig):
    """One committed volume; None where a number has no meaning.

    Attributes:
        z_roughness: roughness relative to the mean of the run's real volumes.
        seam_ratio_real: of the mask's own real volume at the same z: what anatomy alone gives.
        ms_ssim: to the mask's own real volume; fidelity for informed "own", a contrast for others.
        class_errors: generated minus real mean of each class; informed "own" only.
        seconds: read, sample, measure and write.
        flags: what the quality gate found wrong with it.
        gate: what the compatibility gate said of its informed slice.
    """

    sample_id: str
    case_id: str
    informed_case: str
    informed_z: int
    num_windows: int
    seam_ratio: float | None
    seam_ratio_real: float | None
    z_roughness: float | None
    ms_ssim: float | None
    unit: str
    class_means: dict[str, float]
    class_means_real: dict[str, float]
    class_errors: dict[str, float]
    seconds: float
    attempt: int
    flags: tuple[str, ...] = ()
    gate: str = "unchecked"


class RunSummary(FrozenConfig):
    """Content of summary.json; means are over the committed volumes that have the number.

    Attributes:
        failed: planned volumes that do not exist after this job.
        quarantined: those of them that are not tried again.
        flagged: existing volumes that the quality gate marked.
        skipped: rows of the plan that the compatibility gate ruled out; not counted as planned.
        withdrawn: rows that a withdrawn case is part of; not counted as planned.
        num_cases: masks behind the volumes, so that nobody takes replicas for patients.
        class_error_mean_abs: of each class, informed "own" only.
        wall_s: of the job that wrote this, start to end.
        stage_s: sums over volumes, over all jobs of this run.
        peak_memory_mb: largest of any worker, and of the driver.
    """

    planned: int
    committed: int
    failed: int
    quarantined: int
    flagged: int = 0
    skipped: int = 0
    withdrawn: int = 0
    num_cases: int
    informed: str
    seam_ratio: float | None
    seam_ratio_real: float | None
    z_roughness: float | None
    ms_ssim: float | None
    class_error_mean_abs: dict[str, float]
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


def summarize(
    rows: Sequence[PlanRow], commits: Mapping[str, Commit], facts: JobFacts
) -> RunSummary:
    """Put the numbers of a run together; independent of the order in which volumes came."""
    informed = ", ".join(dict.fromkeys(row.informed for row in rows))
    real = _real_roughness(commits.values())
    volumes = tuple(
        _volume(commits[row.sample_id], row, real) for row in rows if row.sample_id in commits
    )
    errors: dict[str, list[float]] = {}
    for volume in volumes:
        for name, error in volume.class_errors.items():
            errors.setdefault(name, []).append(abs(error))
    return RunSummary(
        planned=len(rows),
        committed=len(volumes),
        failed=len(rows) - len(volumes),
        quarantined=facts.quarantined,
        flagged=sum(bool(volume.flags) for volume in volumes),
        skipped=facts.skipped,
        withdrawn=facts.withdrawn,
        num_cases=len({volume.case_id for volume in volumes}),
        informed=informed,
        seam_ratio=_mean(v.seam_ratio for v in volumes),
        seam_ratio_real=_mean(v.seam_ratio_real for v in volumes),
        z_roughness=_mean(v.z_roughness for v in volumes),
        ms_ssim=_mean(v.ms_ssim for v in volumes),
        class_error_mean_abs={name: round(statistics.fmean(e), 2) for name, e in errors.items()},
        wall_s=round(facts.wall_s, 1),
        stage_s=_stage_sums(commits.values()),
        peak_memory_mb={
            "worker": max((c.peak_memory_mb for c in commits.values()), default=0.0),
            "driver": facts.driver_memory_mb,
        },
        volumes=volumes,
    )


def _real_roughness(commits: Iterable[Commit]) -> float | None:
    """Mean roughness of the real volumes behind the run, each case once."""
    by_case = {c.case_id: c.measures.roughness_real for c in commits}
    return _mean(by_case.values())


def _volume(commit: Commit, row: PlanRow, real_roughness: float | None) -> VolumeSummary:
    measures: Measures = commit.measures
    relative = None
    if measures.roughness is not None and real_roughness:
        relative = round(measures.roughness / real_roughness, 4)
    errors = {}
    if row.informed == "own" and not row.changes and not row.drawn_mask:
        errors = mean_errors(measures.class_means, measures.class_means_real)
    return VolumeSummary(
        sample_id=commit.sample_id,
        case_id=commit.case_id,
        informed_case=commit.informed_case,
        informed_z=commit.informed_z,
        num_windows=commit.num_windows,
        seam_ratio=measures.seam_ratio,
        seam_ratio_real=measures.seam_ratio_real,
        z_roughness=relative,
        ms_ssim=measures.ms_ssim,
        unit=measures.unit,
        class_means=measures.class_means,
        class_means_real=measures.class_means_real,
        class_errors={name: round(error, 2) for name, error in errors.items()},
        seconds=round(sum(s for stage, s in commit.timings_s.items() if "/" not in stage), 2),
        attempt=commit.attempt,
        flags=commit.quality.flags,
        gate=row.gate.verdict if row.gate else "unchecked",
    )


def _stage_sums(commits: Iterable[Commit]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for commit in commits:
        for stage, seconds in commit.timings_s.items():
            sums[stage] = round(sums.get(stage, 0.0) + seconds, 3)
    return sums


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 4) if known else None
