"""Settings of one training stage. Knows no data and no network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from engine.config import FrozenConfig
from engine.paths import READ, WRITTEN
from engine.sampling.diffusion.schedule import ScheduleConfig
from engine.volumes.layouts import Split

Stage = Literal["autoencoder", "slice", "volume", "position", "distill", "decoder"]
SpecValue = bool | int | str | tuple[int, ...] | None
Tracker = Literal["tensorboard", "wandb", "mlflow"]


class TrainConfig(FrozenConfig):
    """One stage.

    Attributes:
        stage: `autoencoder`; `slice` (2D denoiser, a timestep a slice); `volume` (windows of n
            slices, one timestep a window); `position` (slices from their height alone, Eq. 2);
            `distill` (a teacher's many steps into few, arXiv:2202.00512); `decoder` (the way back
            from latents alone: sharper images, and every denoiser stays valid).
        data: folder of prepared cases (jobs/prepare_dataset.py).
        weights: folder of weights; the stage reads what earlier stages left there and adds its own.
        work: folder of checkpoints, the latent cache and TensorBoard files.
        about: one sentence on data and purpose, for the model card.
        preset: architecture (models/presets.py); must match what the folder already holds.
        denoiser: fields of the preset's denoiser to replace, `{mask_encoding: one_hot}` say.
        autoencoder: fields of the preset's autoencoder to replace, `{image_channels: 3}` say.
        start_from: weights folder to begin with instead of random weights: the autoencoder to tune
            (or, with num_iterations 0, only to measure), or for `distill` the teacher.
        schedule: diffusion of the denoiser stages.
        splits: of the data set, whose cases are trained on: "train", "test".
        holdout: case ids that are never trained on.
        case_weight: how much oftener than others a case is drawn, by id (default 1).
        tune: `volume` only: `volumetric` trains the volumetric layers alone (the paper), `all`
            trains everything (better for small models trained from little).
        num_augmented: moved copies of each case in the latent cache (flips, small rotations and
            shifts in-plane), beside the case itself.
        augment_flip: whether copies may be mirrored.
        num_iterations: optimiser steps.
        max_minutes: end earlier when this much time has passed; the learning rate follows.
        batch_size: images (autoencoder), slices (slice) or windows (volume) that a worker holds at
            once; "auto" finds the fastest that fits by trial.
        global_batch_size: examples of an optimiser step over all workers, reached by accumulating
            gradients; None is batch_size x workers (and a resume keeps what it was). What is
            learnt depends on it and not on the number of workers.
        activation_checkpointing: compute activations again in the backward pass to save memory.
        crop_px: autoencoder only: edge of random crops.
        learning_rate: peak, after warm-up, before cosine decay.
        warmup: steps of linear warm-up.
        weight_decay: AdamW's.
        grad_clip: largest gradient norm.
        ema_half_life: steps after which a weight's share in the average has halved.
        kl_weight: autoencoder: weight of the mean KL term a latent value.
        squared_weight: autoencoder and decoder: weight of the mean squared error beside L1; it
            keeps mean intensities.
        perceptual: autoencoder: file of an ImageNet AlexNet or VGG16 trunk (safetensors, or a .pth
            of plain tensors) for a feature loss; None leaves it out.
        perceptual_weight: of that loss.
        adversarial_weight: autoencoder: of a patch discriminator's loss, relative to the gradient
            of the reconstruction; 0 leaves it out.
        adversarial_start: steps before the discriminator takes part.
        max_overlap: volume: most known slices at either end of a training window.
        high_noise_share: denoiser stages: share of timesteps drawn from the noisiest quarter of the
            schedule, the rest as `timesteps` says.
        timesteps: denoiser stages: how they are drawn: `uniform`, `linear` (probability grows with
            t) or `logit_normal` (the middle oftener, arXiv:2403.03206).
        loss_weighting: denoiser stages: `uniform`, or `min_snr` (arXiv:2303.09556), which gives
            pure noise no weight at all.
        min_snr_gamma: largest signal-to-noise ratio that still adds weight.
        condition_dropout: denoiser stages: share of examples without conditions, for guidance.
        distill_start: `distill`: steps of the student in the first round; each round halves them.
        distill_steps: `distill`: steps of the student in the last round.
        slice_gradient_weight: `volume` only: weight of the error in differences of neighbouring
            slices, known ones included; errors then change slowly along z, and joins close.
        class_weight: denoiser stages: extra weight in the loss of positions inside a class, by
            its name (one-hot masks only); small organs need it to get their intensity right.
        image_encoder: folder of a CLIP vision tower, for presets with `image_token_width`.
        seed: of initial weights, data order and noise.
        num_workers: Ray Train workers.
        use_gpu: one GPU a worker.
        zero_stage: DeepSpeed ZeRO 0, 1 or 2.
        precision: "float32", "bfloat16" or "float16" (dynamic loss scaling).
        checkpoint_minutes: time between checkpoints.
        checkpoint_steps: steps between checkpoints, beside the time; None leaves it to the time.
        export: weights of the `last` step, or of the checkpoint with the `best` probe loss.
        log_steps: steps between lines of log, trackers and progress file; None is every 15 s.
        sample_steps: steps between sampled slices in the trackers; 0 is never.
        trackers: where numbers and pictures go.
        peak_tflops: of one device in `precision`, for the share of it that is used.
        threads: CPU threads a worker; None divides the machine.
        private: whether only you may read what is written (modes 0600 and 0700).
    """

    model_config = ConfigDict(allow_inf_nan=False)

    stage: Stage = "volume"
    data: Annotated[Path, READ] = Path("runs/prepared")
    weights: Annotated[Path, WRITTEN] = Path("runs/weights")
    work: Annotated[Path, WRITTEN] = Path("runs/training")
    about: str = ""
    preset: str = "demo"
    denoiser: dict[str, SpecValue] = Field(default_factory=dict)
    autoencoder: dict[str, SpecValue] = Field(default_factory=dict)
    start_from: Annotated[Path, READ] | None = None
    schedule: ScheduleConfig = ScheduleConfig(zero_terminal_snr=True, prediction_type="v")
    splits: tuple[Split, ...] = Field(("train",), min_length=1)
    holdout: tuple[str, ...] = ()
    case_weight: dict[str, float] = Field(default_factory=dict)
    tune: Literal["volumetric", "all"] = "volumetric"
    num_augmented: int = Field(0, ge=0)
    augment_flip: bool = True
    num_iterations: int = Field(10_000, ge=0)
    max_minutes: float | None = Field(None, gt=0)
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    global_batch_size: int | None = Field(None, ge=1)
    activation_checkpointing: bool = False
    crop_px: int = Field(64, ge=16)
    learning_rate: float = Field(4e-4, gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    ema_half_life: int = Field(300, ge=1)
    kl_weight: float = Field(1e-4, ge=0)
    squared_weight: float = Field(0.0, ge=0)
    perceptual: Annotated[Path, READ] | None = None
    perceptual_weight: float = Field(0.1, gt=0)
    adversarial_weight: float = Field(0.0, ge=0)
    adversarial_start: int = Field(1000, ge=0)
    max_overlap: int = Field(4, ge=1)
    high_noise_share: float = Field(0.0, ge=0.0, le=1.0)
    timesteps: Literal["uniform", "linear", "logit_normal"] = "uniform"
    loss_weighting: Literal["uniform", "min_snr"] = "uniform"
    min_snr_gamma: float = Field(5.0, gt=0)
    condition_dropout: float = Field(0.0, ge=0.0, le=1.0)
    distill_start: int = Field(16, ge=1)
    distill_steps: int = Field(8, ge=1)
    slice_gradient_weight: float = Field(0.0, ge=0.0)
    class_weight: dict[str, float] = Field(default_factory=dict)
    image_encoder: Annotated[Path, READ] | None = None
    seed: int = 0
    num_workers: int = Field(1, ge=1)
    use_gpu: bool = False
    zero_stage: Literal[0, 1, 2] = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    checkpoint_minutes: float = Field(5.0, gt=0)
    checkpoint_steps: int | None = Field(None, ge=1)
    export: Literal["last", "best"] = "last"
    log_steps: int | None = Field(None, ge=1)
    sample_steps: int = Field(0, ge=0)
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    peak_tflops: float | None = Field(None, gt=0)
    threads: int | None = Field(None, ge=1)
    private: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rounds = self.distill_start / self.distill_steps
        if rounds < 1 or 2 ** round(math.log2(rounds)) != rounds:
            raise ValueError(
                f"distill_start {self.distill_start}: give distill_steps {self.distill_steps} "
                "times 1, 2, 4, 8 ..."
            )
        if self.stage == "distill" and self.start_from is None:
            raise ValueError("stage distill needs start_from, the folder of the teacher's weights")
        if self.num_iterations == 0 and self.stage != "autoencoder":
            raise ValueError("num_iterations 0 only measures an autoencoder's latents")
        return self
