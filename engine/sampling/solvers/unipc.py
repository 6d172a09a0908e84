"""UniPC of order 2 with B(h) = e^h - 1 ("bh2"), predicting x_0 (arXiv:2302.04867).

Each evaluation first corrects the step that led to it (UniC), then predicts the next (UniP), so the
corrector costs no evaluation. The state's anchor is the corrected x of the evaluation before.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.sampling.solvers.state import Method, Solver, SolverState

if TYPE_CHECKING:
    from torch import Tensor


def unipc(solver: Solver, state: SolverState, x_0: Tensor, noise: Tensor | None) -> SolverState:
    """Algorithms 1 (UniC) and 2 (UniP) of arXiv:2302.04867, in the form that predicts x_0."""
    if state.anchor is not None:
        state = replace(state, x=_corrected(solver, state, state.anchor, x_0))
    x = _predicted(solver, state, x_0)
    history = (x_0, *state.history)[: solver.order]
    return SolverState(x, state.index + 1, history, anchor=state.x)


def _predicted(solver: Solver, state: SolverState, x_0: Tensor) -> Tensor:
    """UniP: first order at the first and the last step."""
    now, after = solver.levels[state.index], solver.levels[state.index + 1]
    growth = -math.expm1(now.lam - after.lam)  # 1 - exp(-h)
    direction = x_0
    if state.history and state.index < solver.num_evaluations - 1:
        r = (solver.levels[state.index - 1].lam - now.lam) / (after.lam - now.lam)
        direction = x_0 + 0.5 * (state.history[0] - x_0) / r
    return (after.sigma / now.sigma) * state.x + after.alpha * growth * direction


def _corrected(solver: Solver, state: SolverState, anchor: Tensor, x_0: Tensor) -> Tensor:
    """UniC: the step from the anchor once more, now with the estimate at its end."""
    before, now = solver.levels[state.index - 1], solver.levels[state.index]
    h = now.lam - before.lam
    growth = -math.expm1(-h)
    last = state.history[0]
    direction = last + 0.5 * (x_0 - last)
    if len(state.history) > 1:
        r = (solver.levels[state.index - 2].lam - before.lam) / h
        # The two conditions on the weights (R rho = b): the step's first two moments over B(h).
        first = 1.0 / growth - 1.0 / h
        second = 2.0 * (first / -h + 0.5 / growth)
        weight_earlier = (second - first) / (r - 1.0)
        weight_end = first - weight_earlier
        direction = last + weight_end * (x_0 - last)
        direction = direction + weight_earlier / r * (state.history[1] - last)
    return (now.sigma / before.sigma) * anchor + now.alpha * growth * direction


METHODS = (Method("unipc", unipc, order=2),)
