"""The command: what it refuses and how it ends. What the job does is tested in tests/runs."""

from pathlib import Path

import pytest

import jobs.resample_abdomen as job
from engine.config import load_config
from engine.errors import RunError
from engine.runs.jobs.resample import Outcome, ResampleConfig
from engine.runs.report.summary import JobFacts, summarize

EMPTY = summarize(list, JobFacts(0.0, 0.0, 0))
SEEN: list[ResampleConfig] = []


def pretend(monkeypatch: pytest.MonkeyPatch, failed: int = 0) -> None:
    def resample(config: ResampleConfig) -> Outcome:
        SEEN.append(config)
        summary = EMPTY.model_copy(update={"planned": 3, "committed": 3 - failed, "failed": failed})
        return Outcome(summary, Path("run/report.html"), worked=True)

    monkeypatch.setattr(job, "resample", resample)


def test_the_yaml_beside_the_job_holds_its_defaults() -> None:
    assert load_config(ResampleConfig, job.DEFAULTS) == ResampleConfig()


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (1, 1)])
def test_failed_samples_are_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failed: int, code: int
) -> None:
    pretend(monkeypatch, failed)
    assert job.main([]) == code
    assert f"{3 - failed} of 3 volumes, {failed} failed" in capsys.readouterr().out


def test_the_command_line_overrides_the_yaml(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch)
    path = tmp_path / "mine.yaml"
    path.write_text("informed: own\nseed: 4\nsampling: {num_inference_steps: 7}\n")
    words = ["--config", str(path), "--seed", "5", "--cases", "a", "b", "--out", "here"]
    assert job.main(words) == 0
    config = SEEN[-1]
    assert (config.informed, config.seed, config.cases) == (("own",), 5, ("a", "b"))
    assert (config.out, config.sampling.num_inference_steps) == (Path.cwd() / "here", 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: 4", "mine.yaml: `seeds`"),
        ("replicas: 0", "mine.yaml: `replicas`"),
        ("sampling: {eta: 0.5}", "eta 0.5 needs solver ddim"),
        ("- a list", "not a mapping"),
    ],
)
def test_bad_settings_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert job.main(["--config", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_a_refusal_of_the_run_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(config: ResampleConfig) -> Outcome:
        raise RunError("run: begun otherwise")

    monkeypatch.setattr(job, "resample", refuse)
    assert job.main([]) == 2
    assert capsys.readouterr().err == "error: run: begun otherwise\n"


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(config: ResampleConfig) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "resample", interrupt)
    assert job.main([]) == 130
    assert "start the same command again" in capsys.readouterr().err
