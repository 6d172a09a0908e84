"""The evaluation job over a whole run of fakes, without Ray."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import ConfigError, RunError
from engine.parallel.start.session import RaySession
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.audit.withdraw import withdraw_patient
from engine.runs.evaluating.populations import HALVES, Populations
from engine.runs.evaluating.reading import OWN_ROW
from engine.runs.evaluating.settings import EvaluateJob
from engine.runs.evaluating.worker import EvaluateWorker, packed, unpacked
from engine.runs.jobs import evaluate
from engine.runs.jobs.evaluate import evaluate_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record.folder import RunFolder
from engine.runs.report.evaluation import METRICS, Metrics, Table
from engine.storage.checked_files import read_model
from tests.runs.fakes import LoadFake, make_data

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_turn(rows: Any, worker: type[EvaluateWorker], settings: Any, pool: Any) -> Any:
        made = worker(**settings)
        for row in rows:
            yield made(row)

    monkeypatch.setattr(evaluate, "run_rows", in_turn)
    monkeypatch.setattr(evaluate, "node_resources", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr(evaluate, "in_own_process", lambda do, *args: do(*args))
    monkeypatch.setattr(RaySession, "start", lambda *_: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> EvaluateJob:
    """A run with two replicas and two kinds of slices; copy it."""
    from tests.runs.fakes import make_weights, work_here

    place = tmp_path_factory.mktemp("evaluated")
    config = ResampleConfig(
        data=make_data(place / "data"), weights=make_weights(place / "weights"),
        out=place / "run", informed=("own", "cross"), replicas=2, num_pictured=0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        resample(config, LoadFake())
    return EvaluateJob(run=place / "run", against=place / "data")


@pytest.fixture
def job(made: EvaluateJob, tmp_path: Path) -> EvaluateJob:
    assert isinstance(made.run, Path)
    run = shutil.copytree(made.run, tmp_path / "run")
    return made.model_copy(update={"run": run, "metrics": ("fidelity", "texture", "diversity")})


@pytest.fixture
def short(job: EvaluateJob) -> EvaluateJob:
    """Two volumes and one kind of measures."""
    return job.model_copy(update={"metrics": ("fidelity",), "max_volumes": 2, "rivals": ()})


def table(metrics: Metrics, name: str) -> Table:
    return next(t for t in metrics.tables if t.name == name)


def test_the_run_and_its_rivals_stand_in_every_table_and_on_the_page(job: EvaluateJob) -> None:
    metrics, place = evaluate_run(job)
    assert (metrics.patients, metrics.volumes, metrics.failed) == (3, 12, {})
    fidelity = table(metrics, "fidelity").rows
    assert list(fidelity) == [OWN_ROW, "painting", "atlas"]
    assert all(rows["mae"].mean is not None for rows in fidelity.values())
    assert fidelity[OWN_ROW]["mae"].low is None  # three patients have no interval
    cell = fidelity["painting"]["mae"]
    assert (cell.patients, cell.volumes) == (3, 12)
    assert read_model(Metrics, place) == metrics
    assert isinstance(job.run, Path)
    page = (job.run / "report.html").read_text()
    assert "<h2>Evaluation</h2>" in page and "nothing about a population" in page
    assert page.count("<h2>Evaluation</h2>") == 1
    again = {"metrics": ("fidelity",), "max_volumes": 1, "rivals": ()}
    evaluate_run(job.model_copy(update=again))  # the section is replaced
    assert (job.run / "report.html").read_text().count("<h2>Evaluation</h2>") == 1
    assert verify_run(VerifyJob(run=job.run)).is_sound


def test_replicas_pairs_and_the_slices_own_height_are_told(job: EvaluateJob) -> None:
    metrics, _ = evaluate_run(job)
    row = table(metrics, "diversity").rows[OWN_ROW]
    assert row["calibration"].patients == 3 and row["influence"].patients == 3
    assert row["own_height"].volumes == 6  # of own slices only
    assert table(metrics, "diversity").rows["painting"]["calibration"].mean is None
    own = {f"case{n}-own-r00" for n in range(3)}  # "cross" draws another slice for each
    assert own <= metrics.replicas.keys() and metrics.pairs.keys() == own
    assert all(len(r["by_slice"]) > 0 for r in metrics.replicas.values())  # type: ignore[arg-type]


def test_few_patients_are_no_population_and_absent_is_never_zero(job: EvaluateJob) -> None:
    update = {"metrics": ("distribution",), "max_volumes": 6, "rivals": ()}
    metrics, _ = evaluate_run(job.model_copy(update=update))
    for cells in table(metrics, "distribution").rows.values():
        for cell in cells.values():
            assert cell.mean is None and "3 patients" in cell.reason and "from 10 on" in cell.reason


def test_a_metric_without_its_package_is_absent_with_a_reason(
    job: EvaluateJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    update = {"metrics": ("distribution", "perceptual"), "min_patients": 3, "rivals": ()}
    metrics, _ = evaluate_run(job.model_copy(update=update))
    distribution = table(metrics, "distribution").rows[OWN_ROW]
    assert "gem3d-engine[extractors]" in distribution["fid_a"].reason
    assert distribution["frd"].mean is not None  # needs no network
    perceptual = table(metrics, "perceptual").rows[OWN_ROW]["st_lpips"]
    assert perceptual.mean is None and "not installed" in perceptual.reason


def test_an_extractor_with_a_wrong_hash_is_refused(job: EvaluateJob, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"other")
    update = {
        "metrics": ("distribution",), "min_patients": 2, "extractor": "radimagenet-resnet50",
        "extractor_file": file, "extractor_sha256": "0" * 64,
    }  # fmt: skip
    with pytest.raises(Exception, match="is not the 000000000000"):
        evaluate_run(job.model_copy(update=update))


def test_near_copies_are_warned_about(job: EvaluateJob, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.runs.evaluating import worker

    monkeypatch.setattr(worker, "calibration", lambda *_: 0.1)
    metrics, _ = evaluate_run(job.model_copy(update={"metrics": ("diversity",), "rivals": ()}))
    assert any("near copies" in warning for warning in metrics.warnings)


def test_damage_is_told_and_the_rest_is_looked_at(job: EvaluateJob) -> None:
    folder = RunFolder(job.run)  # type: ignore[arg-type]
    shard = next(p for p in sorted(folder.volumes.rglob("*")) if p.is_file() and "c" in p.parts)  # type: ignore[union-attr]
    shard.write_bytes(b"torn")
    metrics, _ = evaluate_run(job.model_copy(update={"metrics": ("fidelity",), "rivals": ()}))
    assert metrics.failed and metrics.volumes == 11
    assert any("could not be looked at" in warning for warning in metrics.warnings)


def test_other_data_and_no_data_are_refused(job: EvaluateJob, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --against"):
        evaluate_run(job.model_copy(update={"against": None}))
    fewer = make_data(tmp_path / "fewer", num_cases=1)
    with pytest.raises(ConfigError, match=r"has no case1\.zarr"):
        evaluate_run(job.model_copy(update={"against": fewer}))
    with pytest.raises(RunError, match="not a run folder"):
        evaluate_run(job.model_copy(update={"run": tmp_path}))


def test_withdrawal_removes_what_was_found(short: EvaluateJob) -> None:
    evaluate_run(short)
    folder = RunFolder(short.run)  # type: ignore[arg-type]
    assert (folder.evaluation / METRICS).is_file()
    withdraw_patient(folder, "case1")
    assert not (folder.evaluation / METRICS).exists()


def test_features_travel_as_bytes() -> None:
    arrays = {"a/axial": np.ones((2, 3), np.float32), "a/radiomics": np.zeros((1, 2), np.float32)}
    back = unpacked(packed(arrays))
    assert back.keys() == arrays.keys()
    np.testing.assert_array_equal(back["a/axial"], arrays["a/axial"])
    assert unpacked(packed({})) == {}


def test_populations_tell_shifted_features_from_another_half() -> None:
    rng = np.random.default_rng(0)
    populations = Populations(0)
    for patient in range(20):
        for row, shift in (("real", 0.0), ("this run", 0.0), ("painting", 2.0)):
            features = rng.normal(shift, 1.0, (30, 4)).astype(np.float32)
            both = {f"{row}/axial": features, f"{row}/radiomics": features}
            populations.add(f"p{patient}", both)
    rows = populations.rows(["this run", "painting"])
    for name in ("fid_a", "kid_a", "frd"):
        close, far, floor = (rows[r][name].mean for r in ("this run", "painting", HALVES))
        assert close is not None and far is not None and floor is not None
        assert abs(close) < 0.1 * far and abs(floor) < 0.1 * far
    assert rows["this run"]["fid_c"].reason and json.dumps(populations.slices)
