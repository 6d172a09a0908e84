"""What Ray's processes need: short folders, plain paths, no proxy in between, a token."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray

from engine.errors import RunError
from engine.parallel.computer import interpreter, private_folder
from engine.parallel.computer.environment import set_local_defaults
from engine.parallel.computer.private_folder import check_short, fresh_folder
from engine.parallel.computer.proxies import direct_to_this_computer
from engine.parallel.start.session import RaySession

HERE = "127.0.0.1,localhost,::1"


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment of its own without a word about Ray or proxies."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    kept = {k: v for k, v in kept.items() if not k.lower().endswith("_proxy")}
    monkeypatch.setattr(os, "environ", kept)
    return kept


def test_a_long_tmpdir_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("slurm_job_of_a_long_named_user" * 3)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = fresh_folder()
    try:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        check_short(folder)
    finally:
        folder.rmdir()
    monkeypatch.setattr(private_folder, "short_tmp", lambda: Path(tempfile.gettempdir()))
    with pytest.raises(RunError, match="characters too long for Ray's sockets; set TMPDIR"):
        fresh_folder()
    assert not list(long.iterdir())


def test_a_ray_of_our_own_lives_in_a_short_private_folder_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engine.parallel.start import session as session_module

    seen: list[Path] = []

    def start(folder: Path, _show_workers: bool) -> None:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "log").write_text("Ray was here")
        seen.append(folder)

    monkeypatch.setattr(session_module, "_start", start)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with RaySession() as session:
        session.start()
        check_short(seen[0])
    assert not seen[0].exists()


def test_a_space_is_named() -> None:
    with pytest.raises(RunError, match="'/tmp/my folder': has a space"):
        check_short(Path("/tmp/my folder"))


@pytest.mark.parametrize("name", ["my clone", "it's", "a&b", "$HOME", "x;y", "(1)"])
def test_an_environment_in_an_odd_folder_is_reached_by_a_plain_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tmp_path / name / ".venv"
    prefix.parent.mkdir()
    prefix.symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    inside = Path(sys.executable).relative_to(Path(sys.executable).parents[1])
    monkeypatch.setattr(sys, "executable", str(prefix / inside))
    monkeypatch.setattr(interpreter, "short_tmp", lambda: tmp_path)
    plain = interpreter.plain_interpreter()
    assert interpreter.plain_interpreter() == plain, "found again"
    shell = subprocess.run(
        ["bash", "-c", f"{plain} -c 'import pydantic, sys; print(sys.executable)'"],
        capture_output=True,
        text=True,
    )
    assert shell.stdout.strip() == plain, shell.stderr
    assert stat.S_IMODE(Path(plain).parents[2].stat().st_mode) == 0o700


def test_a_plain_environment_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/env-3.11/bin/python")
    assert interpreter.plain_interpreter() == "/opt/env-3.11/bin/python"


def test_an_interpreter_that_no_link_leads_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my tools/python")
    with pytest.raises(RunError, match=r"'/my tools/python': .* a space.*; move the checkout"):
        interpreter.plain_interpreter()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, HERE),
        ({"no_proxy": ".hospital.example"}, f".hospital.example,{HERE}"),
        ({"NO_PROXY": "a, b,"}, f"a,b,{HERE}"),
        ({"no_proxy": "a", "NO_PROXY": "b,localhost"}, "a,b,localhost,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_no_proxy_stands_between_rays_processes(before: dict[str, str], after: str) -> None:
    assert direct_to_this_computer(before) == {"no_proxy": after, "NO_PROXY": after}
    again = direct_to_this_computer(direct_to_this_computer(before))
    assert again["no_proxy"] == after


def test_a_shell_that_used_a_cluster_which_is_down(env: dict[str, str], tmp_path: Path) -> None:
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "gone")}
    set_local_defaults()
    assert "RAY_AUTH_TOKEN_PATH" not in env
    assert len(env["RAY_AUTH_TOKEN"]) == 64
    assert env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert "127.0.0.1" in env["no_proxy"]


def test_a_token_that_is_there_is_used(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    set_local_defaults()
    assert env["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert "RAY_AUTH_TOKEN" not in env


def test_a_process_of_a_cluster_keeps_its_authentication(env: dict[str, str]) -> None:
    env["RAY_ADDRESS"] = "10.0.0.1:6379"
    set_local_defaults()
    assert "RAY_AUTH_MODE" not in env
    assert "RAY_AUTH_TOKEN" not in env
