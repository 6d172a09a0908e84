"""Where numbers and pictures of a training go: TensorBoard, Weights & Biases, MLflow.

The last two are imported only when they are asked for. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from engine.errors import TrainingError
from engine.training.config import TrainConfig


class TrackerSink(Protocol):
    """What every tracker can do."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Record named numbers."""

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Record a grey picture `y x`."""

    def close(self) -> None:
        """Write what is left."""


@contextmanager
def _no_host_name() -> Iterator[None]:
    before, socket.gethostname = socket.gethostname, lambda: "host"
    try:
        yield
    finally:
        socket.gethostname = before


class TensorBoard:
    """Event files in the work folder."""

    def __init__(self, folder: Path) -> None:
        with _no_host_name():  # it becomes part of the files' names
            self.writer = SummaryWriter(folder)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Record named numbers."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Record a grey picture `y x`."""
        self.writer.add_image(name, image, step, dataformats="HW")

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class WeightsAndBiases:
    """A run of the `wandb` package, as its environment variables say."""

    def __init__(self, config: TrainConfig) -> None:
        self.module = _optional("wandb")
        self.run = self.module.init(
            project="gem3d", name=config.stage, config=config.model_dump(mode="json"),
            dir=str(config.work), resume="allow", id=f"{config.weights.name}-{config.stage}",
        )  # fmt: skip

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Record named numbers."""
        self.run.log(dict(values), step=step)

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Record a grey picture `y x`."""
        self.run.log({name: self.module.Image(image)}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self.run.finish()


class MLflow:
    """A run of the `mlflow` package, as its environment variables say."""

    def __init__(self, config: TrainConfig) -> None:
        self.module = _optional("mlflow")
        self.module.set_experiment("gem3d")
        self.module.start_run(run_name=config.stage)
        self.module.log_params({k: str(v)[:250] for k, v in config.model_dump().items()})

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Record named numbers."""
        self.module.log_metrics(dict(values), step=step)

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Record a grey picture `y x`."""
        self.module.log_image(image, f"{name}/{step:08d}.png")

    def close(self) -> None:
        """Write what is left."""
        self.module.end_run()


def open_trackers(config: TrainConfig) -> list[TrackerSink]:
    """Those that the settings name.

    Raises:
        TrainingError: a package is not installed.
    """
    opened: list[TrackerSink] = []
    for name in config.trackers:
        if name == "tensorboard":
            opened.append(TensorBoard(config.work / "tensorboard" / config.stage))
        elif name == "wandb":
            opened.append(WeightsAndBiases(config))
        else:
            opened.append(MLflow(config))
    return opened


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise TrainingError(
            f"trackers names {name}, which is not installed; `pip install {name}`, or leave it out"
        ) from None
