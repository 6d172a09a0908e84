"""Settings of one training stage. Knows no data and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from engine.config import FrozenConfig
from engine.sampling.schedule import ScheduleConfig

Stage = Literal["autoencoder", "slice", "volume"]


class TrainConfig(FrozenConfig):
    """One stage.

    Attributes:
        stage: `autoencoder`; `slice` (2D denoiser, a timestep a slice); `volume` (windows of n
            slices, one timestep a window).
        data: folder of prepared cases (jobs/prepare_dataset.py).
        weights: folder of weights; the stage reads what earlier stages left there and adds its own.
        work: folder of checkpoints, the latent cache and TensorBoard files.
        about: one sentence on data and purpose, for the model card.
        preset: architecture (models/presets.py); must match what the folder already holds.
        schedule: diffusion of the denoiser stages.
        holdout: case ids that are never trained on.
        case_weight: how much oftener than others a case is drawn, by id (default 1).
        tune: `volume` only: `volumetric` trains the volumetric layers alone (the paper), `all`
            trains everything (better for small models trained from little).
        num_iterations: optimiser steps.
        max_minutes: end earlier when this much time has passed; the learning rate follows.
        batch_size: images (autoencoder), slices (slice) or windows (volume) a step and worker.
        crop_px: autoencoder only: edge of random crops.
        learning_rate: peak, after warm-up, before cosine decay.
        warmup: steps of linear warm-up.
        weight_decay: AdamW's.
        grad_clip: largest gradient norm.
        ema_half_life: steps after which a weight's share in the average has halved.
        kl_weight: autoencoder: weight of the mean KL term a latent value.
        max_overlap: volume: most known slices at either end of a training window.
        high_noise_share: denoiser stages: share of timesteps drawn from the noisiest quarter of the
            schedule, the rest being uniform.
        slice_gradient_weight: `volume` only: weight of the error in differences of neighbouring
            slices, known ones included; errors then change slowly along z, and joins close.
        class_weight: denoiser stages: extra weight in the loss of positions inside a class, by
            its name (one-hot masks only); small organs need it to get their intensity right.
        seed: of initial weights, data order and noise.
        num_workers: Ray Train workers.
        use_gpu: one GPU a worker.
        zero_stage: DeepSpeed ZeRO 0, 1 or 2.
        precision: "float32", "bfloat16" or "float16" (dynamic loss scaling).
        checkpoint_minutes: time between checkpoints.
        threads: CPU threads a worker; None divides the machine.
    """

    stage: Stage = "volume"
    data: Path = Path("runs/prepared")
    weights: Path = Path("runs/weights")
    work: Path = Path("runs/training")
    about: str = ""
    preset: str = "demo"
    schedule: ScheduleConfig = ScheduleConfig(zero_terminal_snr=True, prediction_type="v")
    holdout: tuple[str, ...] = ()
    case_weight: dict[str, float] = Field(default_factory=dict)
    tune: Literal["volumetric", "all"] = "volumetric"
    num_iterations: int = Field(10_000, ge=1)
    max_minutes: float | None = Field(None, gt=0)
    batch_size: int = Field(1, ge=1)
    crop_px: int = Field(64, ge=16)
    learning_rate: float = Field(4e-4, gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    ema_half_life: int = Field(300, ge=1)
    kl_weight: float = Field(1e-4, ge=0)
    max_overlap: int = Field(4, ge=1)
    high_noise_share: float = Field(0.0, ge=0.0, le=1.0)
    slice_gradient_weight: float = Field(0.0, ge=0.0)
    class_weight: dict[str, float] = Field(default_factory=dict)
    seed: int = 0
    num_workers: int = Field(1, ge=1)
    use_gpu: bool = False
    zero_stage: Literal[0, 1, 2] = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    checkpoint_minutes: float = Field(5.0, gt=0)
    threads: int | None = Field(None, ge=1)
