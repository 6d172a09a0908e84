"""What the README tells a user to type exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py"))


def named(pattern: str) -> set[str]:
    found = set(re.findall(pattern, README))
    assert found, pattern
    return found


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in named(r"(?:`|^)make ([a-z-]+)"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"no `make {target}`"


def test_files_exist() -> None:
    pattern = r"(?<![\w/])((?:jobs|docs|weights|tests)/[\w./-]*\w|CHANGELOG\.md)"
    for name in named(pattern):
        assert (ROOT / name).exists(), name


def test_configurations_exist() -> None:
    for name in named(r"[\w]+\.yaml") - {"run.yaml"}:  # of a run folder
        assert (ROOT / "jobs" / "configs" / name).is_file(), name


@pytest.mark.parametrize("name", JOBS)
def test_jobs_can_be_typed(name: str) -> None:
    path = ROOT / "jobs" / name
    assert name.removesuffix(".py") in README, f"{name} is not in the README"
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python"), name
    assert os.access(path, os.X_OK), f"{name} is not executable: `ray job submit` runs it directly"


@pytest.mark.parametrize("name", JOBS)
def test_help_names_every_option_of_the_readme(name: str) -> None:
    done = subprocess.run(
        [sys.executable, f"jobs/{name}", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    commands = README.replace("\\\n", " ").splitlines()
    lines = [line for line in commands if f"jobs/{name} " in line]
    for option in {one for line in lines for one in re.findall(r"--[a-z-]+", line)}:
        if option not in ("--working-dir",):
            assert option in done.stdout, f"{option} of {name}"


def test_cluster_commands_exist() -> None:
    for action in named(r"python -m cluster\.local (\w+)"):
        done = subprocess.run(
            [sys.executable, "-m", "cluster.local", action, "--help"], cwd=ROOT, capture_output=True
        )
        assert done.returncode == 0, action


def test_demo_weights_pass_the_minutes_on() -> None:
    def shown(*variables: str) -> str:
        command = ["make", "--dry-run", "demo-weights", *variables]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    quick = shown("MINUTES=2", "PHANTOMS=3")
    assert re.search(r"train_model\.py [^;]*--max-minutes 2;", quick)
    assert "--num-phantoms 3" in quick
    assert "--max-minutes" not in shown()
