"""Settings that belong to single stages; `StageSettings` is those of any one of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from engine.config import FrozenConfig
from engine.paths import READ

Stage = Literal["autoencoder", "slice", "volume", "position", "distill", "decoder"]


class StageChoice(FrozenConfig):
    """Which stage is trained.

    Attributes:
        stage: `autoencoder`; `slice` (2D denoiser, a timestep a slice); `volume` (windows of n
            slices, one timestep a window); `position` (slices from their height alone, Eq. 2);
            `distill` (a teacher's many steps into few, arXiv:2202.00512); `decoder` (the way back
            from latents alone: sharper images, and every denoiser stays valid).
    """

    stage: Stage = "volume"


class StageFields(FrozenConfig):
    """Settings of one stage, or a group of them that several stages have.

    What a class declares:
        may_only_measure: whether no steps at all make sense.
        needs_teacher: whether it cannot begin without `start_from`.
    """

    may_only_measure: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False


class PixelFields(StageFields):
    """What the stages on images have settings for.

    Attributes:
        crop_px: autoencoder only: edge of random crops.
        kl_weight: autoencoder: weight of the mean KL term a latent value.
        squared_weight: autoencoder and decoder: weight of the mean squared error beside L1; it
            keeps mean intensities.
        perceptual: autoencoder: file of an ImageNet AlexNet or VGG16 trunk (safetensors, or a .pth
            of plain tensors) for a feature loss; None leaves it out.
        perceptual_weight: of that loss.
        texture_weight: autoencoder and decoder: of the difference in the local strength of fine
            detail (losses/texture.py), without which tissue comes out smooth; 0 leaves it out.
        adversarial_weight: autoencoder: of a patch discriminator's loss, relative to the gradient
            of the reconstruction; 0 leaves it out.
        adversarial_start: steps before the discriminator takes part.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    crop_px: int = Field(64, ge=16)
    kl_weight: float = Field(1e-4, ge=0)
    squared_weight: float = Field(0.0, ge=0)
    perceptual: Annotated[Path, READ] | None = None
    perceptual_weight: float = Field(0.1, gt=0)
    texture_weight: float = Field(0.0, ge=0)
    adversarial_weight: float = Field(0.0, ge=0)
    adversarial_start: int = Field(1000, ge=0)


class DiffusionFields(StageFields):
    """How timesteps are drawn and weighted.

    Attributes:
        high_noise_share: denoiser stages: share of timesteps drawn from the noisiest quarter of the
            schedule, the rest as `timesteps` says.
        timesteps: denoiser stages: how they are drawn: `uniform`, `linear` (probability grows with
            t) or `logit_normal` (the middle oftener, arXiv:2403.03206).
        loss_weighting: denoiser stages: `uniform`, or `min_snr` (arXiv:2303.09556), which gives
            pure noise no weight at all.
        min_snr_gamma: largest signal-to-noise ratio that still adds weight.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    high_noise_share: float = Field(0.0, ge=0.0, le=1.0)
    timesteps: Literal["uniform", "linear", "logit_normal"] = "uniform"
    loss_weighting: Literal["uniform", "min_snr"] = "uniform"
    min_snr_gamma: float = Field(5.0, gt=0)


class DenoiserFields(StageFields):
    """What the stages of the denoiser have settings for.

    Attributes:
        condition_dropout: denoiser stages: share of examples without conditions, for guidance.
        class_weight: denoiser stages: extra weight in the loss of positions inside a class, by
            its name (one-hot masks only); small organs need it to get their intensity right.
        max_overlap: volume: most known slices at either end of a training window.
        pinned_share: volume: share of windows that hold their informed slice as a known one, for
            presets with `known_slice_input`; weights trained so keep an own slice at its place
            (`SamplingConfig.pin_informed`).
        slice_gradient_weight: `volume` only: weight of the error in differences of neighbouring
            slices, known ones included; errors then change slowly along z, and joins close.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    condition_dropout: float = Field(0.0, ge=0.0, le=1.0)
    class_weight: dict[str, float] = Field(default_factory=dict)
    max_overlap: int = Field(4, ge=1)
    pinned_share: float = Field(0.0, ge=0.0, le=1.0)
    slice_gradient_weight: float = Field(0.0, ge=0.0)


class VolumeFields(StageFields):
    """What stage 2 alone has settings for.

    Attributes:
        tune: `volume` only: `volumetric` trains the volumetric layers alone (the paper), `all`
            trains everything (better for small models trained from little).
    """

    model_config = ConfigDict(allow_inf_nan=False)

    tune: Literal["volumetric", "all"] = "volumetric"


class DistillFields(StageFields):
    """How the steps of a student are halved.

    Attributes:
        distill_start: `distill`: steps of the student in the first round; each round halves them.
        distill_steps: `distill`: steps of the student in the last round.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    distill_start: int = Field(16, ge=1)
    distill_steps: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _halves(self) -> Self:
        rounds = self.distill_start / self.distill_steps
        if rounds < 1 or 2 ** round(math.log2(rounds)) != rounds:
            raise ValueError(
                f"distill_start {self.distill_start}: give distill_steps {self.distill_steps} "
                "times 1, 2, 4, 8 ..."
            )
        return self


class AutoencoderSettings(PixelFields):
    """Of stage `autoencoder`."""

    may_only_measure: ClassVar[bool] = True
    stage: Literal["autoencoder"] = "autoencoder"


class DecoderSettings(PixelFields):
    """Of stage `decoder`."""

    stage: Literal["decoder"] = "decoder"


class DenoiserSettings(DiffusionFields, DenoiserFields):
    """What `slice`, `volume` and `distill` have in common."""


class SliceSettings(DenoiserSettings):
    """Of stage `slice`."""

    stage: Literal["slice"] = "slice"


class VolumeSettings(DenoiserSettings, VolumeFields):
    """Of stage `volume`."""

    stage: Literal["volume"] = "volume"


class PositionSettings(DiffusionFields):
    """Of stage `position`."""

    stage: Literal["position"] = "position"


class DistillSettings(DenoiserSettings, DistillFields):
    """Of stage `distill`."""

    needs_teacher: ClassVar[bool] = True
    stage: Literal["distill"] = "distill"


AnyStageSettings = (
    AutoencoderSettings
    | DecoderSettings
    | SliceSettings
    | VolumeSettings
    | PositionSettings
    | DistillSettings
)
StageSettings = Annotated[AnyStageSettings, Field(discriminator="stage")]
STAGE_SETTINGS: dict[Stage, type[AnyStageSettings]] = {
    "autoencoder": AutoencoderSettings,
    "decoder": DecoderSettings,
    "slice": SliceSettings,
    "volume": VolumeSettings,
    "position": PositionSettings,
    "distill": DistillSettings,
}
