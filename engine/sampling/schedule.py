"""Noise schedules and what a prediction means: x_t = alpha x_0 + sigma eps.

First link of sampling and of every training objective. Pure functions on tensors; knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.config import FrozenConfig
from engine.errors import ConfigError

PredictionType = Literal["eps", "v", "x_0"]
TINY_ALPHA = 2.0**-24  # stands for 0 at the last timestep of a zero-terminal-SNR schedule


class ScheduleConfig(FrozenConfig):
    """The diffusion a model was trained for; stored beside its weights.

    Attributes:
        num_train_timesteps: length of the training schedule.
        beta_start: first beta ("scaled linear": linear in the square root, the paper's).
        beta_end: last beta.
        zero_terminal_snr: rescale so that the last timestep is pure noise (arXiv:2305.08891).
        prediction_type: what the network outputs.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False
    prediction_type: PredictionType = "eps"


@dataclass(frozen=True)
class Schedule:
    """Tabulated schedule. `alphas_cumprod` is `T` float64, decreasing, within (0, 1)."""

    alphas_cumprod: Tensor
    prediction_type: PredictionType

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise amplitude at timesteps `b` -> two `b` float64 tensors."""
        cumulative = self.alphas_cumprod[t]
        return cumulative.sqrt(), (1.0 - cumulative).sqrt()


def make_schedule(config: ScheduleConfig) -> Schedule:
    """Tabulate the schedule of `config`.

    Raises:
        ConfigError: betas outside (0, 1) or not increasing, fewer than 2 timesteps, or eps
            prediction with zero terminal SNR (undefined at the last timestep).
    """
    if not 0.0 < config.beta_start < config.beta_end < 1.0:
        raise ConfigError(
            f"betas {config.beta_start} to {config.beta_end}: need 0 < start < end < 1"
        )
    if config.num_train_timesteps < 2:
        raise ConfigError(f"num_train_timesteps {config.num_train_timesteps}: need at least 2")
    if config.zero_terminal_snr and config.prediction_type == "eps":
        raise ConfigError("zero_terminal_snr with eps prediction is undefined: use v or x_0")
    root = torch.linspace(
        config.beta_start**0.5,
        config.beta_end**0.5,
        config.num_train_timesteps,
        dtype=torch.float64,
    )
    alphas_cumprod = torch.cumprod(1.0 - root**2, dim=0)
    if config.zero_terminal_snr:
        alphas_cumprod = rescale_zero_terminal_snr(alphas_cumprod)
    return Schedule(alphas_cumprod, config.prediction_type)


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale sqrt(alphas_cumprod) so that it ends at 0 (Alg. 1, arXiv:2305.08891)."""
    root = alphas_cumprod.sqrt()
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    result = rescaled**2
    result[-1] = TINY_ALPHA
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
    alpha, sigma = (_per_item(a, x_0) for a in schedule.alpha_sigma(t))
    return alpha * eps - sigma * x_0


def predicted_x_0(schedule: Schedule, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Turn a network output into an estimate of x_0; `b c h w` and `b` timesteps."""
    if schedule.prediction_type == "x_0":
        return output
    alpha, sigma = (_per_item(a, x_t) for a in schedule.alpha_sigma(t))
    if schedule.prediction_type == "eps":
        return (x_t - sigma * output) / alpha
    return alpha * x_t - sigma * output


def inference_timesteps(num_train_timesteps: int, num_inference_steps: int) -> tuple[int, ...]:
    """Decreasing timesteps with trailing spacing: the first is always the last trained one.

    Raises:
        ConfigError: fewer than 1 step or more than the schedule has.
    """
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise ConfigError(
            f"num_inference_steps {num_inference_steps}: give 1 to {num_train_timesteps}"
        )
    ratio = num_train_timesteps / num_inference_steps
    steps = [round(num_train_timesteps - i * ratio) - 1 for i in range(num_inference_steps)]
    return tuple(steps)


def _per_item(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype).reshape(-1, *([1] * (like.ndim - 1)))
