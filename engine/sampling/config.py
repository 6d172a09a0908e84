"""Settings of sampling, refused when impossible before any model is loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from engine.config import FrozenConfig
from engine.errors import ConfigError
from engine.sampling.schedule import ScheduleConfig, ScheduleKind, check_schedule_config
from engine.sampling.timesteps import TimestepSpacing, check_spacing, check_steps
from models.presets import Preset

SolverName = Literal[
    "ddpm",
    "ddim",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "unipc",
    "euler",
    "heun",
]
FLOW_SOLVERS: tuple[SolverName, ...] = ("euler", "heun")


class SamplingConfig(FrozenConfig):
    """How volumes are sampled.

    Attributes:
        profile: `engine`, or `reference`: the slow baseline (DDIM of 200 steps with eta 1, float32,
            one window at a time, known slices by replacement) whose settings override the others.
        solver: `ddpm` (arXiv:2006.11239), `ddim` (arXiv:2010.02502), `dpmpp_2m`, `dpmpp_3m` and
            their `_sde` forms with noise (DPM-Solver++, arXiv:2211.01095), `unipc`
            (arXiv:2302.04867), and for flow schedules only `euler` and `heun`.
        num_inference_steps: denoising steps a window; None takes what the weights recommend.
            `heun` evaluates the network twice a step, but for the last.
        timestep_spacing: how the steps lie on the schedule, see timesteps.py.
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
    timestep_spacing: TimestepSpacing = "trailing"
    eta: float = Field(0.0, ge=0.0, le=1.0)
    overlap: int = Field(4, ge=1)
    known_slices: Literal["auto", "conditioned", "replacement"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    decode_batch: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _eta_needs_ddim(self) -> SamplingConfig:
        if self.eta > 0.0 and self.solver != "ddim":
            raise ValueError(f"eta {self.eta} needs solver ddim; {self.solver} has no such dial")
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

    def check_schedule(self, schedule: ScheduleConfig) -> None:
        """Refuse settings that the diffusion of these weights cannot do.

        Raises:
            ConfigError: an impossible schedule, a solver or spacing that is not for it, or a number
                of steps that it does not have.
        """
        check_schedule_config(schedule)
        check_solver(self.solver, schedule.kind)
        check_spacing(self.timestep_spacing, schedule.ends_in_noise)
        if self.num_inference_steps is not None:
            steps, length = self.num_inference_steps, schedule.num_train_timesteps
            check_steps(self.timestep_spacing, steps, length)

    def conditioned(self, preset: Preset) -> bool:
        """Whether known slices enter clean and flagged."""
        return self.known_slices != "replacement" and preset.denoiser.known_slice_input


def check_solver(solver: SolverName, kind: ScheduleKind) -> None:
    """Refuse a solver that does not know the schedule.

    Raises:
        ConfigError: `euler` or `heun` on a schedule that is not `flow`.
    """
    if solver in FLOW_SOLVERS and kind != "flow":
        raise ConfigError(
            f"solver {solver} follows the straight lines of flow matching, but these weights were "
            f"trained on a {kind} schedule; use dpmpp_2m, unipc or ddim"
        )
