"""diffusers' schedulers, run beside our solvers on the same fake network and the same noise.

Two things are adapted, so that the tests see the formulas and nothing else (a third, `DpmSolver`,
mends a fault):

- diffusers tabulates and steps in float32. The fixture `float64` (conftest.py) shows its modules a
  torch and a numpy in which float32 is float64; its code stays as it is.
- Where diffusers lays the steps out by another convention, the oracle is given our ladder:
  DPM-Solver, UniPC and flow schedulers as sigmas, DDPM and DDIM as a schedule of which every
  timestep is taken (diffusers' DDIM finds the next timestep by T // N and drifts off others).
"""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from engine.sampling.config import SamplingConfig
from engine.sampling.diffusion.schedule import ScheduleConfig, make_schedule, predicted_x_0
from engine.sampling.make_solver import make_solver
from engine.sampling.solvers.state import Solver, SolverState

NAMES = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample", "flow": "flow_prediction"}
KINDS = {"scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


def fake_network(x: Tensor, t: float) -> Tensor:
    return 0.3 * x + 0.1 * torch.sin(3.0 * x + t / 300.0)


def start() -> Tensor:
    return torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()


def noises() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    while True:
        yield torch.randn(start().shape, generator=generator, dtype=torch.float64)


def lay_out(schedule: ScheduleConfig, **settings: Any) -> Solver:
    return make_solver(SamplingConfig.model_validate(settings), make_schedule(schedule))


def ours(schedule: ScheduleConfig, **settings: Any) -> Tensor:
    """Our solver from `start` to the end, as the sampler drives it."""
    solver, state, noise = lay_out(schedule, **settings), SolverState(start()), noises()
    for t, level in zip(solver.timesteps, solver.levels, strict=False):
        alpha, sigma = (
            torch.full((2,), a, dtype=torch.float64) for a in (level.alpha, level.sigma)
        )
        output = fake_network(state.x, t)
        x_0 = predicted_x_0(schedule.prediction_type, output, state.x, alpha, sigma)
        state = solver.step(state, x_0, next(noise))
    return state.x


def scheduler(kind: type, schedule: ScheduleConfig, **options: Any) -> Any:
    """A diffusers scheduler on the same schedule."""
    common: dict[str, Any] = {"prediction_type": NAMES[schedule.prediction_type]}
    if schedule.kind == "flow":
        common["use_flow_sigmas"] = True
    else:
        common |= {"beta_schedule": KINDS[schedule.kind], "beta_start": schedule.beta_start}
        common |= {"beta_end": schedule.beta_end, "timestep_spacing": "trailing"}
        common |= {"rescale_betas_zero_snr": schedule.zero_terminal_snr}
    return kind(**common, **options)


def give_sigmas(oracle: Any, solver: Solver, flow: bool) -> None:
    """Put `solver`'s ladder into a scheduler that reads sigmas by the index of the step."""
    levels = solver.levels
    sigmas = [level.sigma if flow else level.sigma / level.alpha for level in levels]
    oracle.set_timesteps(max(2, solver.num_evaluations))
    oracle.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    oracle.timesteps = torch.arange(solver.num_evaluations).flip(0).double()
    oracle.set_begin_index(0)


def give_table(kind: type, schedule: ScheduleConfig, solver: Solver, **options: Any) -> Any:
    """A DDPM or DDIM scheduler trained for nothing but `solver`'s ladder."""
    num = solver.num_evaluations
    name = NAMES[schedule.prediction_type]
    oracle = kind(num_train_timesteps=num, prediction_type=name, clip_sample=False, **options)
    table = torch.tensor([level.alpha**2 for level in solver.levels[:-1]], dtype=torch.float64)
    oracle.alphas_cumprod = table.flip(0)
    oracle.set_timesteps(num)
    return oracle


def theirs(oracle: Any, told: tuple[float, ...], **options: Any) -> Tensor:
    """The oracle from `start` to the end; its network is told our timesteps."""
    x, noise = start(), noises()
    for t, ours_t in zip(oracle.timesteps, told, strict=True):
        fresh = next(noise)
        extra = {"variance_noise": fresh} if options.get("noisy") else {}
        extra |= {"eta": options["eta"]} if "eta" in options else {}
        x = oracle.step(fake_network(x, ours_t), t, x, **extra).prev_sample
    assert x.dtype == torch.float64
    return x


class DpmSolver(DPMSolverMultistepScheduler):  # type: ignore[misc] # diffusers is not typed
    """diffusers with the sign in the third-order SDE update put right.

    Its weight of D_2 is phi - 1/2 with phi -> -1/2 for small h, where every derivation (and its
    own ODE form, negated as a whole) gives phi + 1/2; see
    `test_third_order_sde_beats_second_where_the_oracle_as_published_does_not`.
    """

    def multistep_dpm_solver_third_order_update(self, outputs: Any, **options: Any) -> Tensor:
        x: Tensor = super().multistep_dpm_solver_third_order_update(outputs, **options)
        if self.config.algorithm_type != "sde-dpmsolver++":
            return x
        pairs = [
            self._sigma_to_alpha_sigma_t(self.sigmas[self.step_index + i]) for i in (1, 0, -1, -2)
        ]
        lam = [torch.log(alpha / sigma) for alpha, sigma in pairs]
        h, r_0, r_1 = (lam[i] - lam[i + 1] for i in range(3))
        r_0, r_1 = r_0 / h, r_1 / h
        bend = (outputs[-1] - outputs[-2]) / r_0 - (outputs[-2] - outputs[-3]) / r_1
        better: Tensor = x + pairs[0][0] * bend / (r_0 + r_1)
        return better
