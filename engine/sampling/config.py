"""Settings of sampling, refused when impossible before any model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from engine.config import FrozenConfig, validate
from engine.errors import ConfigError
from engine.sampling.diffusion.schedule_config import (
    ScheduleConfig,
    check_schedule_config,
)
from engine.sampling.diffusion.spacing import TimestepSpacing, check_spacing, check_steps
from engine.sampling.solvers.methods import METHODS, SolverName, check_solver, default_solver
from models.weights.manifest import Manifest

if TYPE_CHECKING:
    import torch

OVERLAP_CONDITIONED = 4  # slices; models that are told what is known were trained with up to this
OVERLAP_PAPER = 1
WINDOWS_CPU = 2  # one volume's UP and DOWN; larger batches leave the caches
WINDOWS_GPU = 8
SLICES_CPU = 2
SLICES_GPU = 8


class SamplingConfig(FrozenConfig):
    """How volumes are sampled.

    Attributes:
        profile: `engine`, or `reference`: the slow baseline (DDIM of 200 steps with eta 1, float32,
            one window at a time, the layers' plain forms, decoding at the end; known slices as the
            weights were trained for, the paper's by replacement) whose settings override the
            others, but for `guidance_scale`.
        solver: `ddpm` (Algorithm 1 of the paper), `ddim` (arXiv:2010.02502), DPM-Solver++ 2M or 3M
            (arXiv:2211.01095), each also with SDE noise, `unipc` (arXiv:2302.04867); `euler` and
            `heun` for flow-matching weights. None takes what the weights recommend (distilled ones
            need theirs), else `dpmpp_2m`, or `euler` for flow matching.
        num_inference_steps: denoising steps a window; None takes what the weights recommend.
            `heun` evaluates the network twice a step, but for the last.
        timestep_spacing: `trailing` starts from pure noise; `linspace`, `leading`, `karras`.
        guidance_scale: classifier-free guidance (arXiv:2207.12598): 1 is the conditioned model
            alone, more pushes away from what it makes without mask and informed slice. Any other
            value than 1 evaluates the network twice, as one batch, and needs weights trained with
            condition_dropout.
        eta: `ddim` only: 0 is deterministic, 1 as noisy as DDPM.
        overlap: slices (h) a window shares with the one before; None is 4 for models that are told
            which slices are known, else the paper's 1.
        known_slices: `conditioned` tells the model which slices are given (needs weights trained
            for it), `replacement` puts them at the solver's noise level (RePaint), `auto` takes
            the first where the weights can.
        num_resamples: replacement only: times each run of `jump_length` steps is done, noise being
            put back between (RePaint's resampling).
        jump_length: steps of such a run.
        informed_follows: `patient` shows every window the patient's informed slice, `chain` the
            newest known slice instead (line 18 of Algorithm 1), and image tokens of that slice,
            decoded, where the model attends to some; `auto` takes the first for models that are
            told where the informed slice lies.
        pin_informed: whether an informed slice that is a slice of the very volume (informed `own`)
            is known from the beginning at its own place, so that the volume holds it; `auto` does
            so where the weights were trained for it.
        precision: of the networks. `auto` is chosen once a run, for the weakest machine that
            works on it: float32 on CPUs (where bfloat16 would make other volumes on another
            machine), bfloat16 on GPUs that have it, float16 on older ones.
        arithmetic: `fast` lays weights out channels-last and fuses attention and slice
            convolutions; `plain` computes the same in the paper's form.
        compile: torch.compile the denoiser; costs minutes, once for each number of slices a batch.
            On a GPU norms and sums alone, in place of own kernels: seconds, once a kind of shape.
        reuse_features: keep the denoiser's deep features for this many steps (1: compute them at
            every step; arXiv:2312.00858). Saves time, costs quality (benchmarks/results).
        max_windows: most windows a batch; None is 2 on a CPU, and on a GPU as many as keep it busy
            (8 of gem3d_512, 32 of gem3d_256). With guidance each counts twice.
        memory_mb: budget for what volumes in work hold beside the networks.
        decode_beside: decode and finish volumes in a thread (and stream) of its own.
        decode_batch: slices encoded or decoded together; bounds memory. None is 2 on a CPU (more
            leave its caches), and on a GPU what a share of its free memory takes.
    """

    profile: Literal["engine", "reference"] = "engine"
    solver: SolverName | None = None
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    timestep_spacing: TimestepSpacing = "trailing"
    guidance_scale: float = Field(1.0, ge=0.0, allow_inf_nan=False)
    eta: float = Field(0.0, ge=0.0, le=1.0)
    overlap: int | None = Field(None, ge=1)
    known_slices: Literal["auto", "conditioned", "replacement"] = "auto"
    num_resamples: int = Field(1, ge=1)
    jump_length: int = Field(10, ge=1)
    informed_follows: Literal["auto", "patient", "chain"] = "auto"
    pin_informed: Literal["auto", "yes", "no"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    arithmetic: Literal["fast", "plain"] = "fast"
    compile: bool = False
    reuse_features: int = Field(1, ge=1)
    max_windows: int | None = Field(None, ge=1)
    memory_mb: float = Field(4096.0, gt=0)
    decode_beside: bool = True
    decode_batch: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _options_fit_the_solver(self) -> SamplingConfig:
        if self.eta > 0.0 and self.solver and not METHODS[self.solver].takes_eta:
            raise ValueError(f"eta {self.eta} needs solver ddim, not {self.solver}")
        if self.num_resamples > 1 and self.solver and not METHODS[self.solver].can_resample:
            raise ValueError("num_resamples above 1 needs a solver of one evaluation a step")
        if self.num_resamples > 1 and self.known_slices == "conditioned":
            raise ValueError("num_resamples above 1 belongs to known_slices replacement")
        return self

    @property
    def overlap_slices(self) -> int:
        """The overlap of resolved settings."""
        assert self.overlap is not None, "resolve the settings first"
        return self.overlap

    @property
    def is_guided(self) -> bool:
        """Whether the network is evaluated without conditions, too."""
        return self.guidance_scale != 1.0

    def windows_in_a_batch(self, device: torch.device) -> int:
        """Most windows a batch on `device`; a guided one is two to the network."""
        most = self.max_windows or (WINDOWS_GPU if device.type == "cuda" else WINDOWS_CPU)
        return max(1, most // 2) if self.is_guided else most

    def slices_in_a_batch(self, device: torch.device) -> int:
        """Most slices encoded or decoded together on `device`."""
        return self.decode_batch or (SLICES_GPU if device.type == "cuda" else SLICES_CPU)

    def resolved(self, manifest: Manifest) -> SamplingConfig:
        """These settings with the profile applied and every choice made for these weights.

        Raises:
            ConfigError: the model cannot do what is asked.
        """
        base = self if self.profile == "engine" else self._reference()
        spec = manifest.preset.denoiser
        known, follows = base.known_slices, base.informed_follows
        if known == "auto":
            known = "conditioned" if spec.known_slice_input else "replacement"
            known = "replacement" if base.num_resamples > 1 else known
        if follows == "auto":
            follows = "patient" if spec.position_embedding else "chain"
        pin = base.pin_informed
        if pin == "auto":
            pin = "yes" if manifest.pins_informed and known == "conditioned" else "no"
        overlap = OVERLAP_CONDITIONED if spec.known_slice_input else OVERLAP_PAPER
        chosen = {
            "solver": base.solver or recommended_solver(manifest),
            "num_inference_steps": base.num_inference_steps or manifest.num_inference_steps,
            "overlap": base.overlap or min(overlap, manifest.preset.window - 1),
            "known_slices": known,
            "informed_follows": follows,
            "pin_informed": pin,
        }
        where = "sampling with these weights"
        result = validate(SamplingConfig, {**base.model_dump(), **chosen}, where=where)
        result._check_against(manifest)
        return result

    def check_schedule(self, schedule: ScheduleConfig) -> None:
        """Refuse settings that the diffusion of these weights cannot do.

        Raises:
            ConfigError: an impossible schedule, a solver or spacing that is not for it, or a number
                of steps that it does not have.
        """
        check_schedule_config(schedule)
        if self.solver is not None:
            check_solver(self.solver, schedule.kind)
        check_spacing(self.timestep_spacing, schedule.ends_in_noise)
        if self.num_inference_steps is not None:
            steps, length = self.num_inference_steps, schedule.num_train_timesteps
            check_steps(self.timestep_spacing, steps, length)

    def _reference(self) -> SamplingConfig:
        return SamplingConfig(
            profile="reference",
            solver="ddim",
            num_inference_steps=200,
            guidance_scale=self.guidance_scale,
            eta=1.0,
            overlap=OVERLAP_PAPER,
            known_slices="auto",  # what the weights were trained for
            precision="float32",
            arithmetic="plain",
            max_windows=1,
            decode_beside=False,
            decode_batch=SLICES_GPU,
        )

    def _check_against(self, manifest: Manifest) -> None:
        preset = manifest.preset
        if self.overlap_slices >= preset.window:
            raise ConfigError(
                f"overlap {self.overlap}: must be below the window of {preset.window} slices"
            )
        if self.known_slices == "conditioned" and not preset.denoiser.known_slice_input:
            raise ConfigError(
                f"known_slices conditioned: preset {preset.name} has no known-slice input; "
                "use replacement"
            )
        if self.is_guided and manifest.condition_dropout == 0.0:
            raise ConfigError(
                f"guidance_scale {self.guidance_scale:g}: the weights' config.json records no "
                "training without conditions, so guidance would make nonsense of them; use 1, or "
                "weights trained with condition_dropout above 0"
            )
        self.check_schedule(schedule_of(manifest))


def recommended_solver(manifest: Manifest) -> str:
    """The solver that these weights name, else the usual one for their schedule.

    Raises:
        ConfigError: they name one that is not known.
    """
    if manifest.solver is None:
        return default_solver(schedule_of(manifest).kind)
    if manifest.solver not in METHODS:
        raise ConfigError(
            f"the weights' config.json recommends solver {manifest.solver!r}, which is not known; "
            f"give one of {', '.join(METHODS)}"
        )
    return manifest.solver


def schedule_of(manifest: Manifest) -> ScheduleConfig:
    """The diffusion of these weights.

    Raises:
        ConfigError: it is not one.
    """
    return validate(ScheduleConfig, manifest.schedule, where="the weights' config.json, schedule")
