"""One denoising step, as a pure function of an explicit state.

A state belongs to one chain, so that chains at different steps can share a batch. Solvers work on
estimates of x_0 and do not care how the network expressed them (schedule.py).

| symbol   | here                                    |
| -------- | --------------------------------------- |
| alpha, sigma | amplitude of signal and noise at t  |
| lambda   | log(alpha / sigma), half the log-SNR    |
| h        | lambda at the next timestep minus now   |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.sampling.config import SamplingConfig, SolverName
from engine.sampling.schedule import Schedule, inference_timesteps


@dataclass(frozen=True)
class Level:
    """Amplitudes at one timestep; the level after the last step is (1, 0)."""

    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        """log(alpha / sigma)."""
        return math.log(self.alpha / self.sigma) if self.sigma > 0.0 else math.inf


CLEAN = Level(1.0, 0.0)


@dataclass(frozen=True)
class SolverState:
    """Where a chain's window stands.

    Attributes:
        x: `n c h w` latents at the current noise level.
        index: steps done.
        last_x_0: the estimate one step ago (multi-step solvers).
    """

    x: Tensor
    index: int = 0
    last_x_0: Tensor | None = None


@dataclass(frozen=True)
class Solver:
    """A solver on a fixed ladder of timesteps.

    Attributes:
        timesteps: decreasing.
        levels: amplitudes at each timestep, and `CLEAN` behind them.
        eta: noise of DDIM.
        rule: the update.
    """

    timesteps: tuple[int, ...]
    levels: tuple[Level, ...]
    eta: float
    rule: Callable[[Solver, SolverState, Tensor, Tensor | None], Tensor]

    def step(self, state: SolverState, x_0: Tensor, noise: Tensor | None) -> SolverState:
        """Advance by one timestep.

        Args:
            state: before the step.
            x_0: estimate of the clean latents from `state.x`.
            noise: unit Gaussian like x, needed when eta > 0.
        """
        return SolverState(self.rule(self, state, x_0, noise), state.index + 1, x_0)

    @property
    def num_steps(self) -> int:
        """Network evaluations a window."""
        return len(self.timesteps)


def make_solver(config: SamplingConfig, schedule: Schedule) -> Solver:
    """Lay the solver of `config` out on `schedule`.

    Raises:
        ConfigError: more steps than the schedule has timesteps.
    """
    assert config.num_inference_steps is not None, "resolve the settings first"
    timesteps = inference_timesteps(len(schedule.alphas_cumprod), config.num_inference_steps)
    alphas, sigmas = schedule.alpha_sigma(torch.tensor(timesteps))
    levels = [Level(*pair) for pair in zip(alphas.tolist(), sigmas.tolist(), strict=True)]
    return Solver(timesteps, (*levels, CLEAN), config.eta, _RULES[config.solver])


def _ddim(solver: Solver, state: SolverState, x_0: Tensor, noise: Tensor | None) -> Tensor:
    """Eq. 12 and 16, arXiv:2010.02502."""
    now, after = solver.levels[state.index], solver.levels[state.index + 1]
    spread = 0.0
    if solver.eta > 0.0 and after.sigma > 0.0:
        ratio = (now.alpha / after.alpha) ** 2
        spread = solver.eta * (after.sigma / now.sigma) * math.sqrt(max(0.0, 1.0 - ratio))
    eps = (state.x - now.alpha * x_0) / now.sigma
    x = after.alpha * x_0 + math.sqrt(max(0.0, after.sigma**2 - spread**2)) * eps
    if spread == 0.0:
        return x
    assert noise is not None
    return x + spread * noise


def _dpmpp_2m(solver: Solver, state: SolverState, x_0: Tensor, noise: Tensor | None) -> Tensor:
    """Algorithm 2, arXiv:2211.01095; first order at the first and the last step."""
    now, after = solver.levels[state.index], solver.levels[state.index + 1]
    direction = x_0
    if state.last_x_0 is not None and after.sigma > 0.0:
        before = solver.levels[state.index - 1]
        half_over_r = (after.lam - now.lam) / (now.lam - before.lam) / 2.0
        direction = (1.0 + half_over_r) * x_0 - half_over_r * state.last_x_0
    decay = (now.alpha / after.alpha) * (after.sigma / now.sigma)  # exp(-h)
    return (after.sigma / now.sigma) * state.x + after.alpha * (1.0 - decay) * direction


_RULES: dict[SolverName, Callable[[Solver, SolverState, Tensor, Tensor | None], Tensor]] = {
    "ddim": _ddim,
    "dpmpp_2m": _dpmpp_2m,
}
