"""A measure is one entry of the table; records of other versions stay readable."""

import json
from pathlib import Path

import pytest

from engine.evaluation import measures
from engine.evaluation.checks import within
from engine.evaluation.measures import INTENSITY, Column, Mean, Measure
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record.records import Commit
from engine.runs.report.summary import RunSummary, VolumeSummary
from tests.runs.fakes import LoadFake

OLD = Path(__file__).parent / "old_runs" / "0.1.0"

TOY = Measure(
    "toy_peak", INTENSITY, 1, "toy peak", "largest intensity of the volume",
    compute=lambda subject: float(subject.made.source.max()),
    check=within("toy_peak", -1.0, 1.0),
)  # fmt: skip
TOY_CLASSES = Measure(
    "toy_voxels", "voxels", 0, "toy voxels", "voxels of each class", by_class=True,
    compute=lambda s: {n: float((s.made.mask == k).sum())
                       for k, n in enumerate(s.made.class_names, start=1)},
    column=Column(digits=0),
    mean=Mean(headline="most toy voxels"),
)  # fmt: skip


@pytest.mark.usefixtures("no_ray")
def test_a_measure_is_one_entry(config: ResampleConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MEASURES", (*measures.MEASURES, TOY, TOY_CLASSES))
    resample(config.model_copy(update={"num_pictured": 0}), LoadFake())
    record = json.loads((config.out / "commits" / "case0-r00.json").read_text())
    peak, voxels = record["measures"]["toy_peak"], record["measures"]["toy_voxels"]
    assert peak == round(peak, 1) > 1.0
    assert voxels["liver"] > 0
    assert any("toy_peak" in flag for flag in record["quality"]["flags"])

    lines = (config.out / "volumes.jsonl").read_text().splitlines()
    peaks = [json.loads(line)["toy_peak"] for line in lines]
    summary = json.loads((config.out / "summary.json").read_text())
    assert peaks[0] == summary["volumes"][0]["toy_peak"] == peak
    assert summary["toy_peak"] == pytest.approx(sum(peaks) / 3, abs=1e-3)
    assert summary["toy_voxels"]["liver"] > voxels["liver"], "later cases are larger"

    page = (config.out / "report.html").read_text()
    assert "<th>toy peak</th>" in page
    assert "<th>toy voxels, liver</th>" in page
    assert f"<td>{peak:.2f}</td>" in page
    assert f"<td>{voxels['liver']:.0f}</td>" in page
    assert "Toy peak: largest intensity of the volume, in HU." in page
    assert "most toy voxels (body)" in page

    monkeypatch.undo()
    kept = Commit.model_validate(record)
    assert kept.measures.number("toy_peak") == peak, "a record of a later table is whole"
    assert kept.sealed().digest == record["digest"]


def test_records_of_version_0_1_0_are_read() -> None:
    raw = json.loads((OLD / "commits" / "case0-r00.json").read_text())
    commit = Commit.model_validate(raw)
    assert commit.measures.number("seam_ratio") == raw["measures"]["seam_ratio"]
    assert json.loads(commit.measures.model_dump_json()) == raw["measures"]
    raw = json.loads((OLD / "summary.json").read_text())
    summary = RunSummary.model_validate(raw)
    assert summary.number("z_roughness") == raw["z_roughness"]
    assert summary.volumes[0].by_class("class_means") == raw["volumes"][0]["class_means"]
    again = json.loads(summary.model_dump_json())
    assert {key: again[key] for key in raw if key != "volumes"} == {
        key: value for key, value in raw.items() if key != "volumes"
    }


def test_a_record_without_a_measure_is_read_as_one_that_has_no_meaning() -> None:
    raw = json.loads((OLD / "commits" / "case0-r00.json").read_text())
    del raw["measures"]["seam_ratio"], raw["measures"]["class_means"]
    commit = Commit.model_validate(raw)
    assert commit.measures.number("seam_ratio") is None
    listed = measures.listed_values(commit.measures, measures.RunFacts({}, is_own=True))
    assert (listed["seam_ratio"], listed["class_means"], listed["class_errors"]) == (None, {}, {})


def test_no_measure_hides_a_key_of_a_record() -> None:
    names = [m.name for m in measures.MEASURES]
    means = [m.mean.name or m.name for m in measures.MEASURES if m.mean is not None]
    assert len(names) == len(set(names))
    assert len(means) == len(set(means))
    assert not set(names) & set(VolumeSummary.model_fields)
    assert not set(means) & set(RunSummary.model_fields)
