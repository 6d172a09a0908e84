"""A stage through Ray Train: its card, its refusals, lost workers, lost drivers, other numbers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from engine.errors import TrainingError
from engine.training.config import TrainConfig
from engine.training.loop.checkpoint import newest_checkpoint
from engine.training.loop.ray_train import train_stage
from engine.training.loop.training import run_stage
from engine.training.weights.export import losses_file
from models.weights.folder import read_manifest

MakeConfig = Callable[..., TrainConfig]
ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def curve(config: TrainConfig) -> np.ndarray:
    return np.loadtxt(losses_file(config))


def training_processes() -> list[psutil.Process]:
    """Ray Train's workers below this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_one_at(config: TrainConfig, step: int, killed: list[int]) -> None:
    """SIGKILL a training worker once a checkpoint of `step` lies on the disk."""
    for _ in range(3000):
        found = newest_checkpoint(config)
        workers = training_processes()
        if found is not None and found.step >= step and workers:
            killed.append(workers[-1].pid)
            os.kill(workers[-1].pid, signal.SIGKILL)
            return
        time.sleep(0.1)


@pytest.mark.usefixtures("local_ray")
def test_a_stage_trains_on_ray_and_writes_its_card(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        tmp_path, stage="autoencoder", about="Trained by a test.", trackers=("tensorboard",)
    )
    measured = train_stage(config)
    assert measured["iterations"] == 2
    assert read_manifest(tmp_path / "weights").stages["autoencoder"] == measured
    card = (tmp_path / "weights" / "README.md").read_text()
    for words in (
        "Model card: weights",
        "Trained by a test.",
        "Not for science",
        "| autoencoder | 2 |",
    ):
        assert words in card
    assert list((tmp_path / "work" / "tensorboard" / "autoencoder").iterdir())
    assert not list((tmp_path / "work").glob("checkpoints/autoencoder/*"))


@pytest.mark.usefixtures("local_ray")
def test_what_a_worker_refuses_reaches_the_user(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = make_config(tmp_path, stage="autoencoder", data=tmp_path / "empty")
    with pytest.raises(TrainingError, match="no prepared case to train on"):
        train_stage(config)
    config = make_config(tmp_path, stage="autoencoder", learning_rate=1e30, grad_clip=1e30)
    with pytest.raises(TrainingError, match="lower learning_rate"):
        train_stage(config.model_copy(update={"warmup": 0, "num_iterations": 9}))


@pytest.mark.usefixtures("local_ray", "process_group")
def test_a_killed_worker_changes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    settings = {
        "stage": "autoencoder",
        "num_iterations": 40,
        "checkpoint_steps": 4,
        "num_workers": 2,
        "zero_stage": 1,
        "batch_size": 2,
    }
    unbroken = make_config(
        tmp_path / "unbroken", **{**settings, "num_workers": 1}, global_batch_size=4
    )
    run_stage(unbroken)

    config = make_config(tmp_path / "killed", **settings)
    killed: list[int] = []
    killer = threading.Thread(target=kill_one_at, args=(config, 8, killed))
    killer.start()
    measured = train_stage(config)
    killer.join()
    assert killed, "no worker was there to be killed"
    assert (measured["iterations"], measured["num_workers"]) == (40, 2)
    np.testing.assert_allclose(curve(config), curve(unbroken), rtol=2e-3)


@pytest.mark.usefixtures("process_group")
def test_a_killed_driver_goes_on_with_another_number_of_workers(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    settings = {
        "stage": "autoencoder",
        "num_iterations": 60,
        "checkpoint_steps": 5,
        "global_batch_size": 2,
    }
    broken = make_config(tmp_path / "broken", **settings, num_workers=2)
    whole = make_config(tmp_path / "whole", **settings)
    run = start_job(broken, tmp_path)
    for _ in range(3000):
        found = newest_checkpoint(broken)
        if found is not None or run.poll() is not None:
            break
        time.sleep(0.1)
    assert run.poll() is None, "the job ended before it could be killed"
    end_tree(run)
    found = newest_checkpoint(broken)
    assert found is not None
    assert 0 < found.step < 60
    assert found.state["num_workers"] == 2

    alone = broken.model_copy(update={"num_workers": 1})
    assert start_job(alone, tmp_path).wait(timeout=300) == 0
    run_stage(whole)
    np.testing.assert_allclose(curve(alone), curve(whole), rtol=2e-3)
    assert read_manifest(alone.weights).stages["autoencoder"]["iterations"] == 60


def start_job(config: TrainConfig, folder: Path) -> subprocess.Popen[bytes]:
    """The user's command, in a process of its own with a Ray of its own."""
    path = folder / f"{config.work.parent.name}{config.num_workers}.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, str(ROOT / "jobs" / "train_model.py"), "--config", str(path)]
    group = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # this process has one of its own
    environment = {k: v for k, v in os.environ.items() if k not in group}
    environment["PYTHONPATH"] = str(ROOT)
    with (folder / f"{path.stem}.log").open("wb") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def end_tree(run: subprocess.Popen[bytes]) -> None:
    """SIGKILL the driver, then whatever of its Ray is left."""
    children = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, timeout=30)
