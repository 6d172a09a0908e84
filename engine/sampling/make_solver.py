"""From settings to a solver that is laid out on the schedule of the weights."""

from __future__ import annotations

from engine.sampling.config import SamplingConfig
from engine.sampling.diffusion.schedule import CLEAN, Schedule
from engine.sampling.diffusion.timesteps import make_ladder
from engine.sampling.solvers.methods import METHODS, check_solver
from engine.sampling.solvers.state import Solver


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
    method = METHODS[config.solver]
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
