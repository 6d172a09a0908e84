from collections.abc import Mapping, Sequence

import pytest

from engine.evaluation.values import VolumeMeasures
from engine.runs.planning.rows import CaseFacts, build_plan
from engine.runs.record.plan import PlanRow
from engine.runs.record.records import Commit
from engine.runs.report.summary import MAX_LISTED, JobFacts, RunSummary, VolumeSummary
from engine.runs.report.summary import summarize as summarize_pairs

FACTS = JobFacts(wall_s=12.34, driver_memory_mb=100.0, quarantined=0)
CASES = {f"case{n}": CaseFacts(10, has_image=True) for n in range(3)}


def commit(row: PlanRow, **measures: object) -> Commit:
    known: dict[str, object] = {
        "seam_ratio": 1.0,
        "seam_ratio_real": 1.0,
        "roughness": 0.6,
        "roughness_real": 0.5,
        "ms_ssim": 0.9,
        "unit": "HU",
        "class_means": {"liver": 110.0},
        "class_means_real": {"liver": 100.0},
    }
    return Commit(
        sample_id=row.sample_id,
        case_id=row.case_id,
        informed_case=row.informed_case,
        informed_z=row.informed_z,
        target_z=0,
        seed=row.seed,
        attempt=1,
        files={},
        config_sha256="",
        weights_sha256="",
        num_windows=2,
        joins=(5,),
        size_zyx=(1, 1, 1),
        timings_s={"sample": 2.0, "write": 0.5, "sample/denoise": 1.5},
        peak_memory_mb=200.0,
        measures=VolumeMeasures.model_validate({**known, **measures}),
        committed_at=0.0,
    )


def summarize(
    rows: Sequence[PlanRow], commits: Mapping[str, Commit], facts: JobFacts
) -> RunSummary:
    return summarize_pairs(lambda: [(row, commits.get(row.sample_id)) for row in rows], facts)


def test_means_are_over_volumes_that_have_the_number() -> None:
    rows = build_plan(CASES, list(CASES), "own", 1, 0)
    commits = {
        rows[0].sample_id: commit(rows[0], seam_ratio=1.2, class_means={"liver": 85.0}),
        rows[2].sample_id: commit(rows[2], seam_ratio=None, roughness=0.4, ms_ssim=0.7),
    }
    summary = summarize(rows, commits, FACTS)
    assert (summary.planned, summary.committed, summary.failed, summary.num_cases) == (3, 2, 1, 2)
    assert summary.number("seam_ratio") == 1.2
    assert summary.number("ms_ssim") == pytest.approx(0.8)
    assert [v.number("z_roughness") for v in summary.volumes] == [1.2, 0.8]
    assert summary.number("z_roughness") == 1.0
    assert [v.by_class("class_errors") for v in summary.volumes] == [
        {"liver": -15.0},
        {"liver": 10.0},
    ]
    assert summary.by_class("class_error_mean_abs") == {"liver": 12.5}
    assert summary.stage_s == {"sample": 4.0, "write": 1.0, "sample/denoise": 3.0}
    assert [v.seconds for v in summary.volumes] == [2.5, 2.5]
    assert summary.peak_memory_mb == {"worker": 200.0, "driver": 100.0}


def test_another_patients_slice_has_no_fidelity_to_claim() -> None:
    rows = build_plan(CASES, list(CASES), "cross", 1, 0)
    summary = summarize(rows, {row.sample_id: commit(row) for row in rows}, FACTS)
    assert summary.by_class("class_error_mean_abs") == {}
    assert summary.volumes[0].by_class("class_means") == {"liver": 110.0}
    assert summary.number("ms_ssim") == 0.9  # the contrast to `own`


def test_replicas_do_not_weigh_in_the_real_reference() -> None:
    rows = build_plan(CASES, ["case0"], "own", 3, 0) + build_plan(CASES, ["case1"], "own", 1, 0)
    real = [0.5, 0.5, 0.5, 0.7]
    commits = {
        row.sample_id: commit(row, roughness_real=r) for row, r in zip(rows, real, strict=True)
    }
    assert summarize(rows, commits, FACTS).volumes[0].number("z_roughness") == pytest.approx(1.0)


def test_masks_without_images_leave_relative_numbers_out() -> None:
    rows = build_plan(CASES, ["case0"], "cross", 1, 0)
    blind = commit(rows[0], roughness_real=None, seam_ratio_real=None, ms_ssim=None)
    summary = summarize(rows, {rows[0].sample_id: blind}, FACTS)
    names = ("z_roughness", "ms_ssim", "seam_ratio")
    assert [summary.number(name) for name in names] == [None, None, 1.0]


def test_nothing_made_is_a_summary_too() -> None:
    rows = build_plan(CASES, list(CASES), "own", 1, 0)
    summary = summarize(rows, {}, FACTS)
    assert (summary.committed, summary.failed, summary.number("seam_ratio")) == (0, 3, None)


def test_a_long_run_has_a_short_summary_and_every_volume_is_told() -> None:
    rows = build_plan(CASES, ["case0"], "own", MAX_LISTED + 5, 0)
    message: list[VolumeSummary] = []
    summary = summarize_pairs(lambda: ((row, commit(row)) for row in rows), FACTS, message.append)
    assert (summary.committed, len(summary.volumes)) == (MAX_LISTED + 5, MAX_LISTED)
    assert [v.sample_id for v in message] == [row.sample_id for row in rows]
