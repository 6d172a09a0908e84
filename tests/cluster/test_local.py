"""A local cluster takes jobs as typed, says how they ended, and leaves nothing behind."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import head, local

LOCAL = [sys.executable, "-m", "cluster.local"]
JOB = """#!/usr/bin/env python
import os, sys, time
import engine, ray
ray.init()
print("args", sys.argv[1:], "in", os.path.basename(os.getcwd()), flush=True)
print("answer", ray.get(ray.remote(lambda: 6 * 7).options(num_cpus=0.1).remote()), flush=True)
print("at", os.environ["RAY_ADDRESS"].split(":")[0], flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an executable jobs/tiny.py, and a cluster folder of its own."""
    (tmp_path / "jobs").mkdir()
    job = tmp_path / "jobs" / "tiny.py"
    job.write_text(JOB)
    job.chmod(0o755)
    folder = Path(tempfile.mkdtemp(prefix="gem3d-"))
    monkeypatch.setenv("GEM3D_CLUSTER_DIR", str(folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    if found := head.find(folder):
        head.stop(found)
    shutil.rmtree(folder, ignore_errors=True)


def still_alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != "zombie"]


@pytest.mark.ray
def test_up_submit_as_typed_and_down(project: Path) -> None:
    up = subprocess.run([*LOCAL, "up", "--num-cpus", "1"], capture_output=True, text=True)
    assert up.returncode == 0, up.stderr
    lines = [shlex.split(line)[1].split("=", 1) for line in up.stdout.splitlines()]
    env = {**os.environ, **dict(lines)}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    keeper = head.find(head.default_folder())
    assert keeper is not None
    kept = psutil.Process(keeper.keeper_pid)
    tree = [kept, *kept.children(recursive=True)]

    listening = {one.laddr.ip for p in tree for one in p.net_connections("tcp") if not one.raddr}
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert stat.S_IMODE(Path(env["RAY_AUTH_TOKEN_PATH"]).stat().st_mode) == 0o600
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(env["RAY_API_SERVER_ADDRESS"] + "/api/jobs/")

    typed = ["ray", "job", "submit", "jobs/tiny.py", "0", "0"]
    done = subprocess.run(typed, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answer 42" in done.stdout
    assert "at 127.0.0.1" in done.stdout
    assert f"in {project.name}" in done.stdout

    assert subprocess.run([*LOCAL, "status"]).returncode == 0
    assert subprocess.run([*LOCAL, "down"]).returncode == 0
    assert subprocess.run([*LOCAL, "status"]).returncode == 3
    assert not still_alive(tree)
    assert not Path(env["RAY_AUTH_TOKEN_PATH"]).exists()


@pytest.mark.ray
def test_run_gives_the_exit_code_of_the_job(project: Path) -> None:
    done = subprocess.run(
        [*LOCAL, "run", "--num-cpus", "1", "--", "jobs/tiny.py", "0", "7"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 7, done.stdout + done.stderr
    assert "answer 42" in done.stdout
    assert f"args ['0', '7'] in {project.name}" in done.stdout


@pytest.mark.ray
def test_ctrl_c_in_mid_run_leaves_no_process(project: Path) -> None:
    with (project / "log").open("wb") as log:
        running = subprocess.Popen(
            [*LOCAL, "run", "--num-cpus", "1", "--", "jobs/tiny.py", "600", "0"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    for _ in range(2000):
        if "answer 42" in (project / "log").read_text():
            break
        time.sleep(0.1)
    tree = psutil.Process(running.pid).children(recursive=True)
    assert any("tiny.py" in " ".join(one.cmdline()) for one in tree)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(timeout=90) == 128 + signal.SIGINT
    assert not still_alive(tree)


def test_a_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(head.ClusterError, match="not a private folder"):
        head.start(tmp_path, num_cpus=1, object_store_mb=128, owner=None)
    assert not head.token_path(tmp_path).exists()


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(head.ClusterError, match="not a private folder"):
        head.start(tmp_path / "link", num_cpus=1, object_store_mb=128, owner=None)


def test_a_record_of_a_dead_or_reused_process_is_no_cluster(tmp_path: Path) -> None:
    record = (
        '{"folder": "x", "gcs_port": 1, "api_port": 2, "keeper_pid": %d, "keeper_created": 5.0}'
    )
    (tmp_path / "head.json").write_text(record % os.getpid())
    assert head.find(tmp_path) is None
    (tmp_path / "head.json").write_text("{")
    assert head.find(tmp_path) is None


def test_run_without_a_job_says_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert local.main(["run"]) == 2
    assert "run -- jobs/NAME.py" in capsys.readouterr().err


def test_sockets_fit_into_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEM3D_CLUSTER_DIR", raising=False)
    session = "ray/session_2026-11-22_23-59-59_123456_1234567/sockets/plasma_store"
    assert len(str(head.default_folder() / session)) <= 107


def test_down_prints_what_lets_a_shell_forget_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEM3D_CLUSTER_DIR", str(tmp_path))
    assert local.main(["down"]) == 0
    assert not capsys.readouterr().out, "another cluster's shell is left alone"
    exported = head.Head(tmp_path, 1, 2, 3, 4.0).client_env()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", exported["RAY_AUTH_TOKEN_PATH"])
    assert local.main(["down"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert set(line.split()) == {"unset", *(k for k in exported if k.startswith("RAY_"))}


def test_up_keeps_proxies_away_from_this_computer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", ".hospital.example")
    exported = head.Head(tmp_path, 1, 2, 3, 4.0).client_env()
    assert exported["no_proxy"] == exported["NO_PROXY"]
    assert exported["no_proxy"].startswith(".hospital.example,127.0.0.1")


def test_a_folder_with_a_space_or_too_long_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path / "my folder", tmp_path / ("long" * 20)):
        with pytest.raises(head.ClusterError, match=r"set TMPDIR \(and GEM3D_CLUSTER_DIR\)"):
            head.start(folder, num_cpus=1, object_store_mb=128, owner=None)


def test_a_token_in_the_shell_gives_way_to_that_of_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = head.Head(tmp_path, 1, 2, 3, 4.0)
    monkeypatch.setattr(local, "find", lambda _folder: running)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another's")
    assert local.main(["up"]) == 0
    assert "unset RAY_AUTH_TOKEN" in capsys.readouterr().out.splitlines()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert local.main(["up"]) == 0
    assert "unset" not in capsys.readouterr().out
