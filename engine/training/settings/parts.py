"""Settings that every stage has, by who reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from engine.config import FrozenConfig
from engine.paths import READ, WRITTEN
from engine.sampling.diffusion.schedule import ScheduleConfig
from engine.volumes.layouts import Split

SpecValue = bool | int | str | tuple[int, ...] | None
Tracker = Literal["tensorboard", "wandb", "mlflow"]


class FolderSettings(FrozenConfig):
    """Where a training reads and writes.

    Attributes:
        weights: folder of weights; the stage reads what earlier stages left there and adds its own.
        work: folder of checkpoints, the latent cache and TensorBoard files.
        about: one sentence on data and purpose, for the model card.
        start_from: weights folder to begin with instead of random weights: the autoencoder to tune
            (or, with num_iterations 0, only to measure), or for `distill` the teacher.
        private: whether only you may read what is written (modes 0600 and 0700).
    """

    model_config = ConfigDict(allow_inf_nan=False)

    weights: Annotated[Path, WRITTEN] = Path("runs/weights")
    work: Annotated[Path, WRITTEN] = Path("runs/training")
    about: str = ""
    start_from: Annotated[Path, READ] | None = None
    private: bool = False


class DataSettings(FrozenConfig):
    """What is trained on.

    Attributes:
        data: folder of prepared cases (jobs/prepare_dataset.py).
        splits: of the data set, whose cases are trained on: "train", "test".
        holdout: case ids that are never trained on.
        case_weight: how much oftener than others a case is drawn, by id (default 1).
        num_augmented: moved copies of each case in the latent cache (flips, small rotations and
            shifts in-plane), beside the case itself.
        augment_flip: whether copies may be mirrored.
        seed: of initial weights, data order and noise.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    data: Annotated[Path, READ] = Path("runs/prepared")
    splits: tuple[Split, ...] = Field(("train",), min_length=1)
    holdout: tuple[str, ...] = ()
    case_weight: dict[str, float] = Field(default_factory=dict)
    num_augmented: int = Field(0, ge=0)
    augment_flip: bool = True
    seed: int = 0


class ModelSettings(FrozenConfig):
    """What is trained.

    Attributes:
        preset: architecture (models/presets.py); must match what the folder already holds.
        denoiser: fields of the preset's denoiser to replace, `{mask_encoding: one_hot}` say.
        autoencoder: fields of the preset's autoencoder to replace, `{image_channels: 3}` say.
        schedule: diffusion of the denoiser stages.
        image_encoder: folder of a CLIP vision tower, for presets with `image_token_width`.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    preset: str = "demo"
    denoiser: dict[str, SpecValue] = Field(default_factory=dict)
    autoencoder: dict[str, SpecValue] = Field(default_factory=dict)
    schedule: ScheduleConfig = ScheduleConfig(zero_terminal_snr=True, prediction_type="v")
    image_encoder: Annotated[Path, READ] | None = None


class OptimiserSettings(FrozenConfig):
    """How it is trained, and for how long.

    Attributes:
        num_iterations: optimiser steps.
        max_minutes: end earlier when this much time has passed; the learning rate follows.
        learning_rate: peak, after warm-up, before cosine decay.
        warmup: steps of linear warm-up.
        weight_decay: AdamW's.
        grad_clip: largest gradient norm.
        ema_half_life: steps after which a weight's share in the average has halved.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    num_iterations: int = Field(10_000, ge=0)
    max_minutes: float | None = Field(None, gt=0)
    learning_rate: float = Field(4e-4, gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    ema_half_life: int = Field(300, ge=1)


class BatchSettings(FrozenConfig):
    """How many examples a step has.

    Attributes:
        batch_size: images (autoencoder), slices (slice) or windows (volume) that a worker holds at
            once; "auto" finds the fastest that fits by trial.
        global_batch_size: examples of an optimiser step over all workers, reached by accumulating
            gradients; None is batch_size x workers (and a resume keeps what it was). What is
            learnt depends on it and not on the number of workers.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    global_batch_size: int | None = Field(None, ge=1)


class MachineSettings(FrozenConfig):
    """What it runs on; nothing of it changes what is learnt but the precision.

    Attributes:
        num_workers: Ray Train workers.
        use_gpu: one GPU a worker.
        zero_stage: DeepSpeed ZeRO 0, 1 or 2.
        precision: "float32", "bfloat16" or "float16" (dynamic loss scaling).
        activation_checkpointing: compute activations again in the backward pass to save memory.
        threads: CPU threads a worker; None divides the machine.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    num_workers: int = Field(1, ge=1)
    use_gpu: bool = False
    zero_stage: Literal[0, 1, 2] = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    activation_checkpointing: bool = False
    threads: int | None = Field(None, ge=1)


class CheckpointSettings(FrozenConfig):
    """What is kept on the way, and what is exported.

    Attributes:
        checkpoint_minutes: time between checkpoints.
        checkpoint_steps: steps between checkpoints, beside the time; None leaves it to the time.
        export: weights of the `last` step, or of the checkpoint with the `best` probe loss.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    checkpoint_minutes: float = Field(5.0, gt=0)
    checkpoint_steps: int | None = Field(None, ge=1)
    export: Literal["last", "best"] = "last"


class WatchSettings(FrozenConfig):
    """What is shown of it.

    Attributes:
        log_steps: steps between lines of log, trackers and progress file; None is every 15 s.
        sample_steps: steps between sampled slices in the trackers; 0 is never.
        trackers: where numbers and pictures go.
        peak_tflops: of one device in `precision`, for the share of it that is used.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    log_steps: int | None = Field(None, ge=1)
    sample_steps: int = Field(0, ge=0)
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    peak_tflops: float | None = Field(None, gt=0)
