"""DPM-Solver++ (arXiv:2211.01095), multistep, as an ODE and as an SDE solver, of order 2 and 3.

With lambda = log(alpha / sigma) and h its growth over the step, the solution is exact in x and
leaves an integral over x_0, which the last estimates extrapolate:

    x_s = (sigma_s / sigma_t) e^(-w h) x_t + alpha_s (phi_0 D_0 + phi_1 D_1 + phi_2 D_2) + noise

D_k are divided differences of x_0 in lambda, scaled by h^k; w is 0 for the ODE and 1 for the SDE.
Order 3 weighs D_2 with half of what Taylor's formula gives, as diffusers does, to agree with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.sampling.solvers.state import Method, Solver, SolverState

if TYPE_CHECKING:
    from torch import Tensor

SHORT = 15  # below so many steps the order falls to 2 before the last, where h is large


def dpmpp(solver: Solver, state: SolverState, x_0: Tensor, noise: Tensor | None) -> SolverState:
    """Algorithm 2 (order 2, "2M") of arXiv:2211.01095, and its order 3 ("3M")."""
    now, after = solver.levels[state.index], solver.levels[state.index + 1]
    x = (after.sigma / now.sigma) * state.x + after.alpha * _drift(solver, state, x_0, 1.0)
    return _advance(solver, state, x, x_0)


def dpmpp_sde(solver: Solver, state: SolverState, x_0: Tensor, noise: Tensor | None) -> SolverState:
    """SDE-DPM-Solver++ of orders 2 and 3 (arXiv:2211.01095).

    The SDE's integrals over x_0 are those of the ODE with 2 h in place of h. diffusers 0.42.1 has
    the 1/2 of phi_2 with the wrong sign here (its weight of D_2 tends to -1 for small h).
    """
    now, after = solver.levels[state.index], solver.levels[state.index + 1]
    decay = (now.alpha / after.alpha) * (after.sigma / now.sigma)  # exp(-h)
    x = (after.sigma / now.sigma) * decay * state.x
    x = x + after.alpha * _drift(solver, state, x_0, 2.0)
    spread = after.sigma * math.sqrt(max(0.0, 1.0 - decay**2))
    if spread > 0.0 and noise is not None:
        x = x + spread * noise
    return _advance(solver, state, x, x_0)


def _advance(solver: Solver, state: SolverState, x: Tensor, x_0: Tensor) -> SolverState:
    return SolverState(x, state.index + 1, (x_0, *state.history)[: solver.order - 1])


def _drift(solver: Solver, state: SolverState, x_0: Tensor, pace: float) -> Tensor:
    """phi_0 D_0 + phi_1 D_1 + phi_2 D_2 over a step of `pace` h (1: ODE, 2: SDE)."""
    now, after = solver.levels[state.index], solver.levels[state.index + 1]
    order = _order(solver, state)
    decay = (now.alpha / after.alpha) * (after.sigma / now.sigma)  # exp(-h)
    growth = 1.0 - math.pow(decay, pace)
    if order == 1:
        return growth * x_0
    h = after.lam - now.lam
    r_0 = (now.lam - solver.levels[state.index - 1].lam) / h
    slope = (x_0 - state.history[0]) / r_0
    if order == 2:  # the "midpoint" form: phi_1 taken as phi_0 / 2
        return growth * x_0 + 0.5 * growth * slope
    r_1 = (solver.levels[state.index - 1].lam - solver.levels[state.index - 2].lam) / h
    earlier = (state.history[0] - state.history[1]) / r_1
    bend = (slope - earlier) / (r_0 + r_1)
    slope = slope + r_0 * bend
    step = pace * h
    phi_1 = 1.0 - growth / step
    phi_2 = 0.5 - (step - growth) / step**2
    return growth * x_0 + phi_1 * slope + phi_2 * bend


def _order(solver: Solver, state: SolverState) -> int:
    """As high as the history allows; 1 at the last step, which ends at infinite lambda."""
    left = solver.num_evaluations - state.index
    if left == 1:
        return 1
    cap = 2 if left == 2 and solver.num_evaluations < SHORT else solver.order
    return min(cap, len(state.history) + 1)


METHODS = (
    Method("dpmpp_2m", dpmpp, order=2),
    Method("dpmpp_3m", dpmpp, order=3),
    Method("dpmpp_2m_sde", dpmpp_sde, order=2, noisy=True),
    Method("dpmpp_3m_sde", dpmpp_sde, order=3, noisy=True),
)
