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

import torch
from torch import Tensor

from engine.sampling.diffusion.levels import CLEAN, Level
from engine.sampling.diffusion.schedule_config import (
    PredictionType,
    ScheduleConfig,
    ScheduleKind,
    check_schedule_config,
)

__all__ = [
    "CLEAN",
    "MAX_COSINE_BETA",
    "TINY_ALPHA",
    "Level",
    "PredictionType",
    "Schedule",
    "ScheduleConfig",
    "ScheduleKind",
    "add_noise",
    "check_schedule_config",
    "cosine_betas",
    "make_schedule",
    "predicted_x_0",
    "rescale_zero_terminal_snr",
    "scaled_linear_betas",
    "training_target",
]

# Stands for 0 at the last timestep, so that log(alpha / sigma) stays finite: of alphas_cumprod with
# zero terminal SNR (diffusers' value), of alpha itself in flow matching (alpha + sigma stays 1).
TINY_ALPHA = 2.0**-24
MAX_COSINE_BETA = 0.999


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
    """x_t of `b c h w` latents at timesteps `b`.

    >>> schedule = make_schedule(ScheduleConfig())
    >>> x_0 = torch.ones(2, 4, 8, 8)
    >>> x_t = add_noise(schedule, x_0, torch.zeros(2, 4, 8, 8), torch.tensor([0, 999]))
    >>> x_t.shape
    torch.Size([2, 4, 8, 8])
    >>> [round(float(x), 3) for x in x_t[:, 0, 0, 0]]  # what is left of the signal
    [1.0, 0.068]
    """
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
    moved = values.to(like.device, like.dtype, non_blocking=like.is_cuda)
    return moved.reshape(-1, *([1] * (like.ndim - 1)))
