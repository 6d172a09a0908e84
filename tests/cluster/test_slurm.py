"""The Slurm script, with stand-ins for `srun`, `scontrol` and `ray` that log what they are told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm" / "resample.sbatch"
STAND_INS = {
    # drops srun's own options and does what follows
    "srun": 'echo "srun $*" >>"$LOG"; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'echo "scontrol $*" >>"$LOG"; [[ $1 == show ]] && printf "n1\\nn2\\n" || true',
    "hostname": "echo 10.0.0.1",
    "ray": 'echo "ray $*" >>"$LOG"; [[ $1 == start ]] && exec sleep 60 || true',
}
DRIVER = """
import signal, sys, time
def end(*_):
    print("committed"); sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("working", flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def job(tmp_path: Path) -> list[str]:
    """Command line of the script, ready for `start`."""
    bins = tmp_path / "bin"
    bins.mkdir()
    for name, body in STAND_INS.items():
        (bins / name).write_text(f"#!/bin/bash\n{body}\n")
        (bins / name).chmod(0o755)
    (bins / "python").symlink_to(sys.executable)
    (tmp_path / "driver.py").write_text(DRIVER)
    return [shutil.which("bash") or "bash", str(SCRIPT), str(tmp_path / "driver.py")]


def start(job: list[str], folder: Path, *args: str) -> subprocess.Popen[str]:
    env = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "LOG": str(folder / "log"),
        "GEM3D_VENV": str(folder / "none"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_PER_TASK": "16",
    }
    return subprocess.Popen([*job, *args], env=env, stdout=subprocess.PIPE, text=True)


def test_a_finished_job_takes_its_cluster_down(job: list[str], tmp_path: Path) -> None:
    process = start(job, tmp_path, "0", "1")
    process.communicate(timeout=60)
    assert process.returncode == 1  # the job's own code
    log = (tmp_path / "log").read_text()
    starts = [line for line in log.splitlines() if line.startswith("ray start")]
    assert [("--head" in line, "20007" in line) for line in starts] == [(True, True), (False, True)]
    assert "requeue" not in log


def test_a_preempted_job_ends_whole_and_is_queued_again(job: list[str], tmp_path: Path) -> None:
    process = start(job, tmp_path, "60", "0")
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - begun < 30
    assert process.returncode == 143
    assert "committed" in output
    assert "scontrol requeue 7" in (tmp_path / "log").read_text()
