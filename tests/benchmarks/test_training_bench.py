"""The bench of training steps on a device: its settings, and one row of a small stage."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bench_training
from speed.training import TrainingSetting


def test_a_stage_of_a_command_line() -> None:
    assert TrainingSetting.parse("slice:8:bfloat16") == TrainingSetting("slice", 8, "bfloat16")
    assert TrainingSetting.parse("volume:1:float16:1").zero_stage == 1


@pytest.mark.slow
def test_steps_of_a_stage_and_of_one_that_does_not_exist() -> None:
    """In a process of its own: DeepSpeed keeps the first group of a process."""
    bench = Path(bench_training.__file__)
    ended = subprocess.run(
        [sys.executable, bench, "--device", "cpu", "--preset", "demo", "--steps", "1",
         "--stages", "autoencoder:1:float32", "none:1:float32"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{bench.parents[1]}:{bench.parent}"},
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    text = ended.stdout.splitlines()[-1]
    assert '"stage": "none"' in text
    assert '"steps_per_s"' in text
