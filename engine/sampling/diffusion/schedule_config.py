"""Settings of the diffusion that weights were trained for; no arithmetic, no torch."""

from __future__ import annotations

from typing import Literal

from engine.config import FrozenConfig
from engine.errors import ConfigError

ScheduleKind = Literal["scaled_linear", "cosine", "flow"]
PredictionType = Literal["eps", "v", "x_0", "flow"]


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
