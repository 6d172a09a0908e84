"""The whole job with a fake sampler: real Ray, real files, no model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from engine.errors import ConfigError, RunError, SamplingError, WeightsError
from engine.parallel.start.session import RaySession
from engine.runs.jobs.resample import Outcome, ResampleConfig, resample, run_place
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_run
from tests.runs.fakes import FakeSampler, LoadFake, make_data, make_weights, on_disk, work_here

ROOT = Path(__file__).parents[2]


def run(config: ResampleConfig, sampler: FakeSampler | None = None) -> Outcome:
    return resample(config, LoadFake(sampler or FakeSampler()))


def images(config: ResampleConfig) -> dict[str, dict[str, str]]:
    """Hashes of the image arrays' files, by sample."""
    folder = RunFolder(config.out)
    found = {}
    for path in folder.commits.glob("*.json"):
        commit = ledger.read_commit(folder, path.stem)
        assert commit is not None
        found[path.stem] = {n: h for n, h in commit.files.items() if n.startswith("0/")}
    return found


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_failing_samples_do_not_stop_the_rest(
    config: ResampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = FakeSampler(fail=frozenset({"case0-r00"}), kill=frozenset({"case1-r00"}))
    folder = RunFolder(config.out)
    with monkeypatch.context() as here:  # in a job before
        work_here(here)
        run(config, FakeSampler(fail=frozenset({"case0-r00", "case1-r00"})))
    ledger.delete(folder, "case2-r00")
    for _ in range(ledger.MAX_FAILURES - 2):
        ledger.fail(folder, ledger.begin_attempt(folder, "case1-r00", "w"), "out of memory")
    first = run(config, bad)
    counts = first.summary
    assert (counts.planned, counts.committed, counts.failed, counts.quarantined) == (3, 1, 2, 1)
    assert list(images(config)) == ["case2-r00"]
    assert ledger.num_failures(folder, "case1-r00") == ledger.MAX_FAILURES
    assert ledger.num_failures(folder, "case2-r00") == 0, "it only stood beside the killer"
    assert "told to fail" in folder.failures.read_text()
    page = first.report.read_text()
    assert "quarantined" in page
    assert "told to fail" in page
    assert "was killed, or ran out of memory" in page


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_killed_driver_and_a_rerun_give_the_same_volumes(config: ResampleConfig) -> None:
    whole = config.model_copy(update={"out": config.out.with_name("whole"), "replicas": 2})
    broken = whole.model_copy(update={"out": config.out.with_name("broken")})
    run(whole)
    _kill_in_mid_run(broken)
    before = images(broken)
    assert 0 < len(before) < len(images(whole))
    outcome = run(broken)
    assert (outcome.summary.planned, outcome.summary.committed) == (6, 6)
    assert images(broken) == images(whole)
    folder = RunFolder(broken.out)
    assert folder.plan.read_bytes() == RunFolder(whole.out).plan.read_bytes()
    assert not list(folder.staging.iterdir())
    interrupted = [
        a.outcome
        for sample_id in images(whole)
        for a in ledger.read_attempts(folder, sample_id)
        if a.outcome != "committed"
    ]
    assert set(interrupted) <= {"interrupted"}
    _check_finished(broken)


def _kill_in_mid_run(config: ResampleConfig) -> None:
    """Start the job as a process of its own and kill -9 it after its first commit."""
    code = (
        "import sys; from engine.runs.jobs.resample import ResampleConfig, resample;"
        "from tests.runs.fakes import FakeSampler, LoadFake;"
        "config = ResampleConfig.model_validate_json(sys.argv[1]);"
        "resample(config, LoadFake(FakeSampler(seconds_a_window=0.3)))"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, config.model_dump_json()], cwd=ROOT, env=clean
    )
    try:
        deadline = time.monotonic() + 200
        while not list(RunFolder(config.out).commits.glob("*.json")):
            assert process.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline, "no volume came"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _check_finished(config: ResampleConfig) -> None:
    """A finished run does nothing, and says so; another configuration is refused."""
    times = {
        path: path.stat().st_mtime_ns for path in on_disk(config.out).rglob("*") if path.is_file()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RaySession, "start", _refuse_to_start)
        outcome = run(config, FakeSampler(fail=frozenset(images(config))))
    assert not outcome.worked
    after = {
        path: path.stat().st_mtime_ns for path in on_disk(config.out).rglob("*") if path.is_file()
    }
    assert {p.name for p in after if after[p] != times.get(p)} == {"lock"}
    with pytest.raises(RunError, match=r"settings\.seed was 0, is now 1"):
        run(config.model_copy(update={"seed": 1}))
    trained = config.weights / "denoiser.safetensors"
    trained.write_bytes(trained.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RunError, match=r"weights\.denoiser\.safetensors was"):
        run(config)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_summary_and_report_say_what_was_made(config: ResampleConfig) -> None:
    outcome = run(config.model_copy(update={"cases": ("case1", "case0"), "num_pictured": 1}))
    raw = json.loads((config.out / "summary.json").read_text())
    assert (raw["planned"], raw["committed"], raw["failed"], raw["num_cases"]) == (2, 2, 0, 2)
    assert [v["sample_id"] for v in raw["volumes"]] == ["case1-r00", "case0-r00"]
    assert raw["seam_ratio"] == pytest.approx(1.0, abs=0.3)
    assert raw["z_roughness"] > 0
    assert raw["volumes"][0]["class_errors"]["liver"] == pytest.approx(
        raw["volumes"][0]["class_means"]["liver"] - raw["volumes"][0]["class_means_real"]["liver"],
        abs=0.01,
    )
    page = outcome.report.read_text()
    assert "not for diagnosis" in page
    assert page.count("data:image/png;base64,") == 1
    assert "1 more are in the run" in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)  # nothing is fetched


def _refuse_to_start(*_: object, **__: object) -> None:
    raise RuntimeError("told not to start")


def test_the_plan_is_written_before_work(
    config: ResampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", _refuse_to_start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # the other tests' Ray stays
    with pytest.raises(RunError, match="told not to start"):
        run(config)
    assert len(RunFolder(config.out).plan.read_text().splitlines()) == 3
    assert not images(config)


def test_a_second_job_on_the_folder_is_refused(config: ResampleConfig) -> None:
    folder = RunFolder(config.out)
    folder.create()
    with lock_run(folder), pytest.raises(RunError, match="another job is at work"):
        run(config)


@pytest.mark.parametrize(
    ("update", "kind", "message"),
    [
        ({"data": Path("nowhere")}, ConfigError, "data: nowhere is not a folder"),
        ({"weights": Path("nowhere")}, WeightsError, "weights: nowhere is not a folder"),
        ({"cases": ("case0", "nobody")}, RunError, r"cases \['nobody'\]"),
    ],
)
def test_impossible_jobs_are_refused_before_work(
    config: ResampleConfig, update: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run(config.model_copy(update=update))
    assert not RunFolder(config.out).plan.exists()


def test_weights_for_other_classes_are_refused(config: ResampleConfig) -> None:
    path = make_weights(config.weights) / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "class_names": ["liver", "spleen", "brain"]}))
    with pytest.raises(WeightsError, match="do not fit the weights"):
        run(config)
    path.write_text("{}")
    with pytest.raises(WeightsError, match="not a model configuration"):
        run(config)


def test_a_flipped_bit_in_the_weights_is_found_before_the_first_volume(
    config: ResampleConfig,
) -> None:
    path = config.weights / "denoiser.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"denoiser\.safetensors: damaged or exchanged"):
        run(config)
    assert not RunFolder(config.out).plan.exists()


def test_cross_needs_another_case(config: ResampleConfig, tmp_path: Path) -> None:
    alone = config.model_copy(
        update={"data": make_data(tmp_path / "alone", num_cases=1), "informed": ("cross",)}
    )
    with pytest.raises(SamplingError, match="no other case has an image"):
        run(alone)


def test_results_do_not_vanish_with_rays_copy_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_place(Path("runs/a")) == tmp_path / "runs" / "a"
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("GEM3D_RUNS", str(tmp_path / "kept"))
    assert run_place(Path("runs/a")) == tmp_path / "kept" / "runs" / "a"
    assert run_place(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv("GEM3D_RUNS")
    assert run_place(Path("runs/a")) == Path.home() / "gem3d" / "runs" / "a"
