"""From settings to a solver: which rule has which name, and which schedules it knows."""

from __future__ import annotations

from dataclasses import dataclass

from engine.sampling.config import SamplingConfig, SolverName, check_solver
from engine.sampling.schedule import CLEAN, Schedule
from engine.sampling.solvers.ancestral import ddim, ddpm
from engine.sampling.solvers.dpmpp import dpmpp, dpmpp_sde
from engine.sampling.solvers.flow import euler, heun
from engine.sampling.solvers.state import Rule, Solver
from engine.sampling.solvers.unipc import unipc
from engine.sampling.timesteps import make_ladder


@dataclass(frozen=True)
class _Method:
    rule: Rule
    order: int = 1
    noisy: bool = False
    two_stage: bool = False


_METHODS: dict[SolverName, _Method] = {
    "ddpm": _Method(ddpm, noisy=True),
    "ddim": _Method(ddim),
    "dpmpp_2m": _Method(dpmpp, order=2),
    "dpmpp_3m": _Method(dpmpp, order=3),
    "dpmpp_2m_sde": _Method(dpmpp_sde, order=2, noisy=True),
    "dpmpp_3m_sde": _Method(dpmpp_sde, order=3, noisy=True),
    "unipc": _Method(unipc, order=2),
    "euler": _Method(euler),
    "heun": _Method(heun, two_stage=True),
}


def make_solver(config: SamplingConfig, schedule: Schedule) -> Solver:
    """Lay the solver of `config` out on `schedule`.

    Args:
        config: resolved settings (`solver` and `num_inference_steps` are known).
        schedule: the one of the weights.

    Raises:
        ConfigError: steps or spacing that the schedule does not have, or a solver not for it.
    """
    assert config.solver is not None, "resolve the settings first"
    assert config.num_inference_steps is not None, "resolve the settings first"
    check_solver(config.solver, schedule.kind)
    ladder = make_ladder(schedule, config.timestep_spacing, config.num_inference_steps)
    timesteps, levels = ladder.timesteps, ladder.levels
    method = _METHODS[config.solver]
    if method.two_stage:
        visits = [0, *(i for i in range(1, len(levels)) for _ in range(2))]
        timesteps, levels = tuple(timesteps[i] for i in visits), tuple(levels[i] for i in visits)
    return Solver(
        timesteps=timesteps,
        levels=(*levels, CLEAN),
        rule=method.rule,
        order=method.order,
        eta=config.eta,
        needs_noise=method.noisy or config.eta > 0.0,
        two_stage=method.two_stage,
    )
