"""What one sees: numbers by timestep, gradient norms, pictures, and trackers by flag."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from engine.errors import TrainingError
from engine.training.config import TrainConfig
from engine.training.loop.training import run_stage
from engine.training.watch.monitor import progress_file
from engine.training.watch.trackers import open_trackers

MakeConfig = Callable[..., TrainConfig]


@pytest.mark.usefixtures("process_group")
def test_tensorboard_and_the_progress_file_show_a_training(
    copied: Callable[[Path], Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(
        copied(tmp_path),
        stage="volume",
        num_iterations=4,
        log_steps=2,
        sample_steps=4,
        peak_tflops=1.0,
        trackers=("tensorboard",),
    )
    run_stage(config)
    events = EventAccumulator(str(config.work / "tensorboard" / "volume")).Reload()
    scalars, images = events.Tags()["scalars"], events.Tags()["images"]
    for name in ("loss", "gradient_norm", "steps_per_s", "tflops_per_worker", "mfu", "share_other"):
        assert name in scalars
    assert any(name.startswith("loss_by_timestep/") for name in scalars)
    assert all(event.value > 0 for event in events.Scalars("gradient_norm"))
    assert images == ["samples"]
    rows = [json.loads(line) for line in progress_file(config).read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[-1]["left_s"] == 0
    assert rows[-1]["tflops_per_worker"] > 0


class FakeTracker(types.ModuleType):
    """Takes the place of wandb and of mlflow, and notes its calls."""

    def __init__(self) -> None:
        super().__init__("fake")
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> "FakeTracker":
            self.calls.append((name, args or kwargs))
            return self

        return call


@pytest.mark.parametrize(
    ("name", "number_call", "end_call"),
    [("wandb", "log", "finish"), ("mlflow", "log_metrics", "end_run")],
)
@pytest.mark.usefixtures("process_group")
def test_other_trackers_get_the_same_numbers(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number_call: str,
    end_call: str,
) -> None:
    fake = FakeTracker()
    monkeypatch.setitem(sys.modules, name, fake)
    config = make_config(tmp_path, stage="autoencoder", trackers=(name,), log_steps=1)
    config = config.model_copy(update={"sample_steps": 2})
    run_stage(config)
    numbers = [args[0] for call, args in fake.calls if call == number_call]
    assert len([values for values in numbers if "loss" in values]) == 2
    assert fake.calls[-1][0] == end_call
    pictures = {"wandb": "Image", "mlflow": "log_image"}[name]
    assert pictures in [call for call, _ in fake.calls]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_tracker_is_named(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TrainingError, match=f"pip install {name}"):
        open_trackers(make_config(tmp_path, trackers=(name,)))
