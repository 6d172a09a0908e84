"""At which noise levels a solver evaluates the network, and which timesteps the network is told.

Between schedule.py (what a level is) and the solvers (how to get from one to the next).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from engine.sampling.diffusion.schedule import Level, Schedule
from engine.sampling.diffusion.spacing import TimestepSpacing, check_spacing, check_steps

KARRAS_RHO = 7.0
LEADING_OFFSET = 1


@dataclass(frozen=True)
class Ladder:
    """Decreasing noise levels; `CLEAN` is not among them.

    Attributes:
        timesteps: what the network is told; fractions only with Karras spacing.
        levels: the amplitudes there, exactly.
    """

    timesteps: tuple[int, ...] | tuple[float, ...]
    levels: tuple[Level, ...]


def make_ladder(schedule: Schedule, spacing: TimestepSpacing, num_steps: int) -> Ladder:
    """`num_steps` levels on `schedule`, noisiest first.

    Args:
        schedule: the trained one.
        spacing: `trailing` starts at the last trained timestep; `linspace` goes from the last to
            the first; `leading` is that of DDIM and latent diffusion with offset 1, which starts
            below the last timestep (all three: Table 2, arXiv:2305.08891); `karras` is even in
            (sigma / alpha)^(1/7) (Eq. 5, arXiv:2206.00364).
        num_steps: 1 to T.

    Raises:
        ConfigError: see `check_steps` and `check_spacing`.
    """
    check_spacing(spacing, schedule.ends_in_noise)
    check_steps(spacing, num_steps, schedule.num_timesteps)
    if spacing == "karras":
        return _karras(schedule, num_steps)
    timesteps = spaced_timesteps(spacing, num_steps, schedule.num_timesteps)
    alphas, sigmas = schedule.alpha_sigma(torch.tensor(timesteps))
    pairs = zip(alphas.tolist(), sigmas.tolist(), strict=True)
    return Ladder(timesteps, tuple(Level(*pair) for pair in pairs))


def spaced_timesteps(
    spacing: Literal["trailing", "linspace", "leading"], num_steps: int, num_train_timesteps: int
) -> tuple[int, ...]:
    """Decreasing distinct timesteps from 0 to T - 1 (Table 2, arXiv:2305.08891)."""
    if spacing == "trailing":
        ratio = num_train_timesteps / num_steps
        return tuple(round(num_train_timesteps - i * ratio) - 1 for i in range(num_steps))
    if spacing == "leading":
        ratio = num_train_timesteps // num_steps
        return tuple(i * ratio + LEADING_OFFSET for i in reversed(range(num_steps)))
    # From above, so that a single step stands at the last timestep, where sampling begins.
    even = np.linspace(num_train_timesteps - 1, 0, num_steps)
    return tuple(int(t) for t in even.round())


def _karras(schedule: Schedule, num_steps: int) -> Ladder:
    """Eq. 5 of arXiv:2206.00364 between the ends of the table; alpha^2 + sigma^2 = 1."""
    table: NDArray[np.float64] = (schedule.sigmas / schedule.alphas).numpy()
    ends = table[[-1, 0]] ** (1.0 / KARRAS_RHO)
    ratios = (ends[0] + np.linspace(0.0, 1.0, num_steps) * (ends[1] - ends[0])) ** KARRAS_RHO
    told = np.interp(np.log(ratios), np.log(table), np.arange(len(table), dtype=np.float64))
    alphas = 1.0 / np.sqrt(1.0 + ratios**2)
    pairs = zip(alphas.tolist(), (ratios * alphas).tolist(), strict=True)
    return Ladder(tuple(told.tolist()), tuple(Level(*pair) for pair in pairs))
