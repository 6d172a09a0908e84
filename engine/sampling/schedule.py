"""Noise schedules and what a prediction means: x_t = alpha x_0 + sigma eps.

First link of sampling and of every training objective. Pure functions on tensors; knows no model
and no solver.

| symbol       | here                                           |
| ------------ | ---------------------------------------------- |
| alpha, sigma | amplitude of signal and of noise at a timestep |
| lambda       | log(alpha / sigma), half the log-SNR           |
| T            | number of trained timesteps, t from 0 to T - 1 |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.config import FrozenConfig
from engine.errors import ConfigError

ScheduleKind = Literal["scaled_linear", "cosine", "flow"]
PredictionType = Literal["eps", "v", "x_0", "flow"]

# Stands for 0 at the last timestep, so that log(alpha / sigma) stays finite: of alphas_cumprod with
# zero terminal SNR (diffusers' value), of alpha itself in flow matching (alpha + sigma stays 1).
TINY_ALPHA = 2.0**-24
MAX_COSINE_BETA = 0.999


class ScheduleConfig(FrozenConfig):
    """The diffusion a model was trained for; stored beside its weights.

    Attributes:
        kind: `scaled_linear` (betas linear in the square root, the paper's), `cosine`
            (arXiv:2102.09672, Eq. 17) or `flow` (straight lines from x_0 to noise,
            arXiv:2210.02747 and arXiv:2209.03003).
        num_train_timesteps: length of the training schedule.
        beta_start: first beta; `scaled_linear` only.
        beta_end: last beta; `scaled_linear` only.
        zero_terminal_snr: rescale so that the last timestep is pure noise (arXiv:2305.08891);
            `flow` is so by itself.
        prediction_type: what the network outputs; `flow` is the velocity eps - x_0.
    """

    kind: ScheduleKind = "scaled_linear"
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False
    prediction_type: PredictionType = "eps"

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing of x_0 is left at the last timestep."""
        return self.zero_terminal_snr or self.kind == "flow"


@dataclass(frozen=True)
class Level:
    """Amplitudes of one noise level; what the last step leads to is `CLEAN`."""

    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        """log(alpha / sigma); infinite when clean."""
        return math.log(self.alpha / self.sigma) if self.sigma > 0.0 else math.inf


CLEAN = Level(1.0, 0.0)


@dataclass(frozen=True)
class Schedule:
    """Tabulated schedule.

    Attributes:
        alphas: `T` float64, decreasing, within (0, 1).
        sigmas: `T` float64, increasing, within (0, 1].
        prediction_type: what the network outputs.
        kind: how the table came about.
        ends_in_noise: the last timestep stands for pure noise (`TINY_ALPHA`).
    """

    alphas: Tensor
    sigmas: Tensor
    prediction_type: PredictionType
    kind: ScheduleKind = "scaled_linear"
    ends_in_noise: bool = False

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.alphas)

    @property
    def alphas_cumprod(self) -> Tensor:
        """Square of `alphas`: the usual name where alpha^2 + sigma^2 = 1."""
        return self.alphas**2

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise amplitude at integer timesteps `b` -> two `b` float64 tensors."""
        return self.alphas[t], self.sigmas[t]


def make_schedule(config: ScheduleConfig) -> Schedule:
    """Tabulate the schedule of `config`.

    Raises:
        ConfigError: see `check_schedule_config`.
    """
    check_schedule_config(config)
    if config.kind == "flow":
        alphas = 1.0 - torch.arange(1, config.num_train_timesteps + 1).double() / (
            config.num_train_timesteps
        )
        alphas[-1] = TINY_ALPHA
        return Schedule(alphas, 1.0 - alphas, config.prediction_type, config.kind, True)
    betas = cosine_betas(config) if config.kind == "cosine" else scaled_linear_betas(config)
    alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
    if config.zero_terminal_snr:
        alphas_cumprod = rescale_zero_terminal_snr(alphas_cumprod)
    return Schedule(
        alphas_cumprod.sqrt(),
        (1.0 - alphas_cumprod).sqrt(),
        config.prediction_type,
        config.kind,
        config.ends_in_noise,
    )


def check_schedule_config(config: ScheduleConfig) -> None:
    """Refuse a diffusion that cannot be.

    Raises:
        ConfigError: betas outside (0, 1) or not increasing, fewer than 2 timesteps, eps prediction
            where the last timestep is pure noise (x_0 cannot be had from it), flow prediction on
            another schedule, or zero terminal SNR where it is so by itself.
    """
    if config.kind == "scaled_linear" and not 0.0 < config.beta_start < config.beta_end < 1.0:
        raise ConfigError(
            f"betas {config.beta_start} to {config.beta_end}: need 0 < start < end < 1"
        )
    if config.num_train_timesteps < 2:
        raise ConfigError(f"num_train_timesteps {config.num_train_timesteps}: need at least 2")
    if config.kind == "flow" and config.zero_terminal_snr:
        raise ConfigError("zero_terminal_snr with kind flow: it ends at pure noise by itself; drop")
    if config.prediction_type == "flow" and config.kind != "flow":
        raise ConfigError(
            f"prediction_type flow on a {config.kind} schedule: use kind flow, or predict v"
        )
    if config.prediction_type == "eps" and config.ends_in_noise:
        name = "kind flow" if config.kind == "flow" else "zero_terminal_snr"
        better = "flow, v or x_0" if config.kind == "flow" else "v or x_0"
        raise ConfigError(
            f"{name} with eps prediction is undefined at the last timestep: predict {better}"
        )


def scaled_linear_betas(config: ScheduleConfig) -> Tensor:
    """`T` float64 betas, linear in the square root (arXiv:2112.10752)."""
    start, end = config.beta_start**0.5, config.beta_end**0.5
    return torch.linspace(start, end, config.num_train_timesteps, dtype=torch.float64) ** 2


def cosine_betas(config: ScheduleConfig) -> Tensor:
    """`T` float64 betas whose signal falls like a squared cosine (Eq. 17, arXiv:2102.09672)."""
    time = torch.linspace(0.0, 1.0, config.num_train_timesteps + 1, dtype=torch.float64)
    signal = torch.cos((time + 0.008) / 1.008 * math.pi / 2.0) ** 2
    return (1.0 - signal[1:] / signal[:-1]).clamp(max=MAX_COSINE_BETA)


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale sqrt(alphas_cumprod) so that it ends at 0 (Alg. 1, arXiv:2305.08891)."""
    root = alphas_cumprod.sqrt()
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    result = rescaled**2
    result[-1] = min(TINY_ALPHA, float(result[-2]) / 2.0)  # long schedules get below it earlier
    return result


def add_noise(schedule: Schedule, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t of `b c h w` latents at timesteps `b`."""
    alpha, sigma = (_per_item(a, x_0) for a in schedule.alpha_sigma(t))
    return alpha * x_0 + sigma * eps


def training_target(schedule: Schedule, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """What the network should output for this x_0, eps and t."""
    if schedule.prediction_type == "eps":
        return eps
    if schedule.prediction_type == "x_0":
        return x_0
    if schedule.prediction_type == "flow":
        return eps - x_0
    alpha, sigma = (_per_item(a, x_0) for a in schedule.alpha_sigma(t))
    return alpha * eps - sigma * x_0


def predicted_x_0(
    prediction_type: PredictionType, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """Turn a network output into an estimate of x_0.

    Takes amplitudes and no timestep: the levels of a Karras ladder are not in the table.

    Args:
        prediction_type: what `output` is.
        output: `b c h w`.
        x_t: `b c h w`.
        alpha: `b` signal amplitudes of x_t.
        sigma: `b` noise amplitudes of x_t.
    """
    if prediction_type == "x_0":
        return output
    if prediction_type == "eps":
        return (x_t - _per_item(sigma, x_t) * output) / _per_item(alpha, x_t)
    if prediction_type == "flow":
        total = alpha + sigma
        return _per_item(1.0 / total, x_t) * x_t - _per_item(sigma / total, x_t) * output
    power = alpha**2 + sigma**2
    return _per_item(alpha / power, x_t) * x_t - _per_item(sigma / power, x_t) * output


def _per_item(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype).reshape(-1, *([1] * (like.ndim - 1)))
