"""What a chain carries from step to step, and what all chains of a run share.

A state belongs to one chain, so that chains at different steps can share a batch. Everything that a
rule needs stands in the state: no tensor hides in a solver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from engine.sampling.diffusion.levels import Level
from engine.sampling.diffusion.schedule_config import ScheduleKind

if TYPE_CHECKING:  # settings name the solvers, and a driver that reads settings loads no torch
    from torch import Tensor


@dataclass(frozen=True)
class SolverState:
    """Where a chain's window stands.

    Attributes:
        x: `n c h w` latents at the noise level of evaluation `index`.
        index: evaluations done.
        history: estimates of x_0 at the evaluations before, newest first; as many as the solver
            remembers, fewer after the start or a restart.
        anchor: `n c h w` latents from which the present step set out (`unipc` corrects and `heun`
            repeats that step), else None.
    """

    x: Tensor
    index: int = 0
    history: tuple[Tensor, ...] = ()
    anchor: Tensor | None = None


@dataclass(frozen=True)
class Solver:
    """A solver laid out on a ladder of noise levels.

    Attributes:
        timesteps: what the network is told at each evaluation; never increasing.
        levels: amplitudes at each evaluation, and `CLEAN` behind them.
        rule: the update, a function of module level.
        order: estimates of x_0 that one update combines at most.
        eta: noise of `ddim`.
        needs_noise: whether `step` must be given noise.
        two_stage: each level but the first and `CLEAN` is evaluated twice (`heun`).
    """

    timesteps: tuple[int, ...] | tuple[float, ...]
    levels: tuple[Level, ...]
    rule: Rule
    order: int = 1
    eta: float = 0.0
    needs_noise: bool = False
    two_stage: bool = False

    @property
    def num_evaluations(self) -> int:
        """Network evaluations a window."""
        return len(self.timesteps)

    def step(self, state: SolverState, x_0: Tensor, noise: Tensor | None = None) -> SolverState:
        """Advance by one evaluation.

        Args:
            state: before the step, `index` below `num_evaluations`.
            x_0: estimate of the clean latents from `state.x`.
            noise: unit Gaussian like x, fresh for every evaluation; only where `needs_noise`.
        """
        assert state.index < self.num_evaluations, "the chain is at its end"
        assert noise is not None or not self.needs_noise, "this solver needs noise"
        return self.rule(self, state, x_0, noise)

    def restart(self, state: SolverState, x: Tensor, index: int) -> SolverState:
        """Put a chain elsewhere on the ladder (a resampling jump of RePaint, arXiv:2201.09865).

        What the solver remembers belongs to another path and is dropped, so the next step is of
        first order.

        Args:
            state: of the chain that jumps.
            x: `n c h w` latents with the noise of `levels[index]`.
            index: an evaluation; of the two at one level, `heun` takes the one that begins a step.
        """
        assert 0 <= index < self.num_evaluations and x.shape == state.x.shape
        return SolverState(x, index + 1 if self.two_stage and index % 2 else index)


Rule: TypeAlias = "Callable[[Solver, SolverState, Tensor, Tensor | None], SolverState]"
ALL_KINDS: tuple[ScheduleKind, ...] = ("scaled_linear", "cosine", "flow")


@dataclass(frozen=True)
class Method:
    """What a solver says of itself; each file of this room declares its own, and nobody else does.

    Attributes:
        name: in settings.
        rule: the update, a function of module level.
        order: estimates of x_0 that one update combines at most.
        schedules: kinds of schedule that it can follow.
        noisy: every step adds noise.
        takes_eta: `eta` turns it from deterministic to as noisy as DDPM.
        two_stage: each level but the first and the clean end is evaluated twice.
        can_resample: a chain may jump back to an earlier level (RePaint's resampling).
    """

    name: str
    rule: Rule
    order: int = 1
    schedules: tuple[ScheduleKind, ...] = ALL_KINDS
    noisy: bool = False
    takes_eta: bool = False
    two_stage: bool = False
    can_resample: bool = True
