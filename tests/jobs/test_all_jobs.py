"""What all jobs have in common: how a refusal, Ctrl-C and SIGTERM end them."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engine.command import LOST, run_command
from engine.errors import ClusterLostError, ConfigError

JOBS = sorted(path.stem for path in (Path(__file__).parents[2] / "jobs").glob("*.py"))


@pytest.fixture(params=JOBS)
def job(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"jobs.{request.param}")


def ends_with(monkeypatch: pytest.MonkeyPatch, job: ModuleType, ending: BaseException) -> int:
    def end(*_args: Any, **_kwargs: Any) -> None:
        raise ending

    monkeypatch.setattr(job, "parse_job", end)
    code: int = job.main([])
    return code


@pytest.mark.parametrize("kind", [ConfigError, OSError])
def test_a_refusal_is_one_line_and_exit_code_2(
    job: ModuleType,
    kind: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ends_with(monkeypatch, job, kind("tensor a:\n  shape \x1b[31m1;\ngive another")) == 2
    shown = capsys.readouterr()
    assert shown.err == "error: tensor a: shape \\x1b[31m1; give another\n"
    assert not shown.out


def test_a_systems_error_says_where_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> int:
        raise PermissionError(13, "Permission denied", b"/runs/a\x1b[2J/plan.jsonl")

    assert run_command(refused, print) == 2
    told = capsys.readouterr().err
    assert told == (
        "error: /runs/a\\x1b[2J/plan.jsonl: Permission denied; ask its owner to share it "
        "(chmod -R g+rwX), or choose another place\n"
    )


def test_ctrl_c_is_exit_code_130(
    job: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(monkeypatch, job, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted; start the same command again to go on\n"


def test_sigterm_unwinds_the_job_and_is_exit_code_143(
    job: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_go = []

    def work(*_args: Any, **_kwargs: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            let_go.append(True)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(job, "parse_job", work)
    assert job.main([]) == 143
    assert let_go
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "ended by SIGTERM; start the same command again to go on\n"


def test_a_setting_that_is_none_is_exit_code_2(
    job: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("nonsense: 1\n")
    assert job.main(["--config", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "mine.yaml: `nonsense`" in line


def test_a_flag_that_is_none_is_exit_code_2(
    job: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        job.main(["--nonsense"])
    assert end.value.code == 2
    assert "nonsense" in capsys.readouterr().err


def test_a_closed_terminal_unwinds_and_a_lost_cluster_has_its_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed() -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        signal.pause()
        return 0

    def lost() -> int:
        raise ClusterLostError("the Ray cluster is gone; start the same command again to go on")

    assert run_command(closed, print) == 129
    assert run_command(lost, print) == LOST == 3
    assert capsys.readouterr().err.count("start the same command again to go on\n") == 2
