"""What all jobs have in common: how a refusal, Ctrl-C and SIGTERM end them."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engine.command import LOST, run_command
from engine.errors import ClusterLostError, ConfigError

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


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


def test_an_impatient_user_gets_no_traceback(tmp_path: Path) -> None:
    """Ctrl-C again and again, also while the interpreter ends (Ray leaves then)."""
    script = tmp_path / "job.py"
    script.write_text(
        "import atexit, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # `make test &` ignores it
        "from engine.command import run_command\n"
        "atexit.register(time.sleep, 20)\n"
        "def job():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.exit(run_command(job, print))\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline().startswith("interrupted; ")
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
        assert process.stderr.read() == ""


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
