"""Settings of sampling, refused when impossible before any model is loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from engine.config import FrozenConfig
from engine.errors import ConfigError
from models.presets import Preset

SolverName = Literal["ddim", "dpmpp_2m"]


class SamplingConfig(FrozenConfig):
    """How volumes are sampled.

    Attributes:
        profile: `engine`, or `reference`: the slow baseline (DDIM of 200 steps with eta 1, float32,
            one window at a time, known slices by replacement) whose settings override the others.
        solver: `ddim` (arXiv:2010.02502) or `dpmpp_2m` (DPM-Solver++ 2M, arXiv:2211.01095).
        num_inference_steps: denoising steps a window; None takes what the weights recommend.
        eta: `ddim` only: 0 is deterministic, 1 as noisy as DDPM.
        overlap: slices (h) a window shares with the one before.
        known_slices: `conditioned` tells the model which slices are given (needs weights trained
            for it), `replacement` puts them at the solver's noise level (RePaint), `auto` takes
            the first where the weights can.
        precision: of the denoiser; `auto` is bfloat16 on CPUs and GPUs with such arithmetic,
            float16 on older GPUs, else float32.
        decode_batch: slices decoded together; bounds memory.
    """

    profile: Literal["engine", "reference"] = "engine"
    solver: SolverName = "dpmpp_2m"
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    eta: float = Field(0.0, ge=0.0, le=1.0)
    overlap: int = Field(4, ge=1)
    known_slices: Literal["auto", "conditioned", "replacement"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    decode_batch: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _eta_needs_ddim(self) -> SamplingConfig:
        if self.eta > 0.0 and self.solver != "ddim":
            raise ValueError(f"eta {self.eta} needs solver ddim; {self.solver} takes no noise")
        return self

    def resolved(self, recommended_steps: int) -> SamplingConfig:
        """These settings with the profile applied and the steps filled in."""
        if self.profile == "engine":
            steps = self.num_inference_steps or recommended_steps
            return self.model_copy(update={"num_inference_steps": steps})
        return SamplingConfig(
            profile="reference",
            solver="ddim",
            num_inference_steps=200,
            eta=1.0,
            overlap=1,
            known_slices="replacement",
            precision="float32",
            decode_batch=self.decode_batch,
        )

    def check_against(self, preset: Preset) -> None:
        """Refuse settings that this model cannot do.

        Raises:
            ConfigError: overlap not below the window, or conditioned known slices on a model
                without that input.
        """
        if self.overlap >= preset.window:
            raise ConfigError(
                f"overlap {self.overlap}: must be below the window of {preset.window} slices"
            )
        if self.known_slices == "conditioned" and not preset.denoiser.known_slice_input:
            raise ConfigError(
                f"known_slices conditioned: preset {preset.name} has no known-slice input; "
                "use replacement"
            )

    def conditioned(self, preset: Preset) -> bool:
        """Whether known slices enter clean and flagged."""
        return self.known_slices != "replacement" and preset.denoiser.known_slice_input
