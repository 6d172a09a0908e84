"""First-order solvers: DDPM, and DDIM with its dial from deterministic to as noisy as DDPM.

Both are written for any alpha and sigma, so they hold on flow schedules too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.sampling.solvers.state import Method, Solver, SolverState

if TYPE_CHECKING:
    from torch import Tensor


def ddpm(solver: Solver, state: SolverState, x_0: Tensor, noise: Tensor | None) -> SolverState:
    """Draw from the posterior q(x_s | x_t, x_0): Algorithm 1 of the paper, for steps of any length.

    Eq. 6 and 7 of arXiv:2006.11239 with alpha_t / alpha_s in place of one step's sqrt(1 - beta)
    (arXiv:2107.00630):

        a = alpha_t / alpha_s,  b = sigma_t^2 - a^2 sigma_s^2
        mean = (a sigma_s^2 / sigma_t^2) x_t + (alpha_s b / sigma_t^2) x_0
        variance = b sigma_s^2 / sigma_t^2
    """
    now, after = solver.levels[state.index], solver.levels[state.index + 1]
    kept = now.alpha / after.alpha
    added = max(0.0, now.sigma**2 - (kept * after.sigma) ** 2)
    of_x = kept * (after.sigma / now.sigma) ** 2
    of_x_0 = after.alpha * added / now.sigma**2
    spread = math.sqrt(added) * after.sigma / now.sigma
    x = of_x * state.x + of_x_0 * x_0
    if spread > 0.0 and noise is not None:
        x = x + spread * noise
    return SolverState(x, state.index + 1)


def ddim(solver: Solver, state: SolverState, x_0: Tensor, noise: Tensor | None) -> SolverState:
    """Eq. 12 and 16, arXiv:2010.02502, with alpha^2 + sigma^2 not taken for 1."""
    now, after = solver.levels[state.index], solver.levels[state.index + 1]
    added = now.sigma**2 - (now.alpha / after.alpha * after.sigma) ** 2
    spread = solver.eta * (after.sigma / now.sigma) * math.sqrt(max(0.0, added))
    eps = (state.x - now.alpha * x_0) / now.sigma
    x = after.alpha * x_0 + math.sqrt(max(0.0, after.sigma**2 - spread**2)) * eps
    if spread > 0.0 and noise is not None:
        x = x + spread * noise
    return SolverState(x, state.index + 1)


METHODS = (
    Method("ddpm", ddpm, noisy=True),
    Method("ddim", ddim, takes_eta=True),
)
