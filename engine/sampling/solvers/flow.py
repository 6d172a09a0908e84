"""Euler and Heun along the straight lines of flow matching, d x = (eps - x_0) d sigma.

For schedules with alpha + sigma = 1 only (kind `flow`), where the velocity is (x - x_0) / sigma.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.sampling.solvers.state import Method, Solver, SolverState

if TYPE_CHECKING:
    from torch import Tensor


def euler(solver: Solver, state: SolverState, x_0: Tensor, noise: Tensor | None) -> SolverState:
    """Euler's step of the ODE of arXiv:2209.03003 and arXiv:2210.02747, from sigma down."""
    now, after = solver.levels[state.index], solver.levels[state.index + 1]
    velocity = (state.x - x_0) / now.sigma
    return SolverState(state.x + (after.sigma - now.sigma) * velocity, state.index + 1)


def heun(solver: Solver, state: SolverState, x_0: Tensor, noise: Tensor | None) -> SolverState:
    """Heun's step (Algorithm 1, arXiv:2206.00364): two evaluations, one state each.

    Even evaluations take Euler's step to the next level and leave their start as anchor; odd ones
    stand there and take the step again with the mean of both velocities. The step to the clean end
    is Euler's, so N levels cost 2 N - 1 evaluations.
    """
    if state.anchor is None:
        ahead = euler(solver, state, x_0, noise)
        if ahead.index == solver.num_evaluations:
            return ahead
        return SolverState(ahead.x, ahead.index, (x_0,), anchor=state.x)
    before, now = solver.levels[state.index - 1], solver.levels[state.index]
    first = (state.anchor - state.history[0]) / before.sigma
    second = (state.x - x_0) / now.sigma
    x = state.anchor + (now.sigma - before.sigma) * 0.5 * (first + second)
    return SolverState(x, state.index + 1)


METHODS = (
    Method("euler", euler, schedules=("flow",)),
    Method("heun", heun, schedules=("flow",), two_stage=True, can_resample=False),
)
