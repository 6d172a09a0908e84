"""How denoising steps are spread over the trained timesteps, and what a schedule allows of it."""

from __future__ import annotations

from typing import Literal

from engine.errors import ConfigError

TimestepSpacing = Literal["trailing", "linspace", "leading", "karras"]


def check_steps(spacing: TimestepSpacing, num_steps: int, num_train_timesteps: int) -> None:
    """Refuse a number of steps that the spacing cannot lay out.

    Raises:
        ConfigError: fewer than 1 step or more than the schedule has; with `leading`, 1 step (it
            would take noise for a nearly clean image) or all T (one more than fits the offset).
    """
    if not 1 <= num_steps <= num_train_timesteps:
        raise ConfigError(f"num_inference_steps {num_steps}: give 1 to {num_train_timesteps}")
    if spacing == "leading" and not 2 <= num_steps < num_train_timesteps:
        raise ConfigError(
            f"num_inference_steps {num_steps} with leading spacing: give 2 to "
            f"{num_train_timesteps - 1}, or take trailing"
        )


def check_spacing(spacing: TimestepSpacing, ends_in_noise: bool) -> None:
    """Refuse Karras spacing where sigma / alpha has no end.

    Raises:
        ConfigError: `karras` on a schedule whose last timestep is pure noise.
    """
    if spacing == "karras" and ends_in_noise:
        raise ConfigError(
            "timestep_spacing karras needs a finite sigma / alpha, but these weights' schedule "
            "ends at pure noise; use trailing"
        )
