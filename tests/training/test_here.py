"""A stage with one worker on this computer needs no Ray, and imports none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.training.config import TrainConfig
from engine.training.loop.here import fits_one_process, has_much_to_cache
from engine.training.stages.survey import survey

MakeConfig = Callable[..., TrainConfig]
ROOT = Path(__file__).parents[2]


def test_a_cluster_or_more_workers_take_ray(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    one = make_config(tmp_path, stage="autoencoder")
    assert fits_one_process(one)
    assert not fits_one_process(one.model_copy(update={"num_workers": 2}))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not fits_one_process(one)


def test_a_large_cache_is_made_on_all_cores(make_config: MakeConfig, tmp_path: Path) -> None:
    found = survey(make_config(tmp_path, stage="autoencoder"))
    assert not has_much_to_cache(found)
    many = replace(found.plan, tasks=found.plan.tasks * 17)
    assert has_much_to_cache(replace(found, plan=many))


def test_the_command_loads_ray_only_when_it_needs_it() -> None:
    code = "import sys, jobs.train_model; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
