"""What every solver must do, whatever its formula: follow the truth, converge, end finite."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.errors import ConfigError
from engine.sampling.config import SamplingConfig
from engine.sampling.diffusion.schedule import Level, ScheduleConfig, make_schedule
from engine.sampling.make_solver import make_solver
from engine.sampling.solvers.methods import METHODS
from engine.sampling.solvers.state import Solver, SolverState
from tests.sampling.oracles import give_sigmas, lay_out, noises, ours, start

SOLVERS = tuple(METHODS)
FLOW_SOLVERS = tuple(name for name, method in METHODS.items() if method.schedules == ("flow",))
NOISY = ("ddpm", "dpmpp_2m_sde", "dpmpp_3m_sde")
PLAIN = ScheduleConfig(prediction_type="x_0")
FLOW = ScheduleConfig(kind="flow", prediction_type="flow")
ZERO_SNR = ScheduleConfig(prediction_type="v", zero_terminal_snr=True)
COSINE = ScheduleConfig(kind="cosine", prediction_type="v", zero_terminal_snr=True)
MEAN, SPREAD = 0.7, 0.5  # of the Gaussian whose best estimate of x_0 is known


def on(solver: str) -> ScheduleConfig:
    return FLOW if solver in FLOW_SOLVERS else PLAIN


def gaussian_x_0(x: Tensor, level: Level) -> Tensor:
    """E[x_0 | x_t] where x_0 is Gaussian."""
    gain = level.alpha * SPREAD**2 / ((level.alpha * SPREAD) ** 2 + level.sigma**2)
    return MEAN + gain * (x - level.alpha * MEAN)


def gaussian_path(x: Tensor, start: Level, end: Level) -> Tensor:
    """Exact solution of the probability flow ODE from `start` to `end`."""
    widths = [math.hypot(level.alpha * SPREAD, level.sigma) for level in (start, end)]
    return end.alpha * MEAN + widths[1] / widths[0] * (x - start.alpha * MEAN)


def error(solver: str, steps: int) -> float:
    """How far from the exact path at the last level before the clean end, which is always t = 0."""
    spacing = "linspace" if solver in FLOW_SOLVERS else "karras"  # even in what each solves over
    plan = lay_out(on(solver), solver=solver, num_inference_steps=steps, timestep_spacing=spacing)
    begin = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    state = SolverState(begin)
    while state.index < plan.num_evaluations - 1:
        state = plan.step(state, gaussian_x_0(state.x, plan.levels[state.index]))
    exact = gaussian_path(begin, plan.levels[0], plan.levels[-2])
    return float((state.x - exact).abs().max())


@pytest.mark.parametrize("schedule", [PLAIN, ZERO_SNR, COSINE, FLOW], ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
def test_every_solver_ends_finite(solver: str, schedule: ScheduleConfig, steps: int) -> None:
    if solver in FLOW_SOLVERS:
        schedule = FLOW
    assert torch.isfinite(ours(schedule, solver=solver, num_inference_steps=steps)).all()


@pytest.mark.parametrize("schedule", [PLAIN, ZERO_SNR, COSINE, FLOW], ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_perfect_network_is_followed_exactly(
    solver: str, schedule: ScheduleConfig, dtype: torch.dtype
) -> None:
    if solver in FLOW_SOLVERS:
        schedule = FLOW
    plan = lay_out(schedule, solver=solver, num_inference_steps=6)
    truth, noise = start().roll(1).to(dtype), noises()
    state = SolverState(start().to(dtype))
    for _ in range(plan.num_evaluations):
        state = plan.step(state, truth, next(noise).to(dtype))
    assert state.x.dtype == dtype
    torch.testing.assert_close(state.x, truth)


@pytest.mark.parametrize("schedule", [PLAIN, ZERO_SNR, COSINE, FLOW], ids=str)
@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
def test_ddpm_is_ddim_with_eta_1(schedule: ScheduleConfig, spacing: str) -> None:
    settings: dict[str, Any] = {"num_inference_steps": 7, "timestep_spacing": spacing}
    first = ours(schedule, solver="ddpm", **settings)
    second = ours(schedule, solver="ddim", eta=1.0, **settings)
    torch.testing.assert_close(first, second, atol=1e-9, rtol=1e-9)


@given(st.integers(1, 40))
def test_ddim_without_noise_is_euler_on_flow(steps: int) -> None:
    first = ours(FLOW, solver="ddim", num_inference_steps=steps)
    second = ours(FLOW, solver="euler", num_inference_steps=steps)
    torch.testing.assert_close(first, second, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("solver", "first"), [("dpmpp_2m", "ddim"), ("unipc", "ddim")])
def test_second_order_solvers_converge_twice_as_fast(solver: str, first: str) -> None:
    assert error(solver, 40) < 0.2 * error(first, 40)
    assert 1.6 < error(first, 80) / error(first, 160) < 2.6
    assert error(solver, 80) / error(solver, 160) > 3.0


def test_heun_is_of_second_order_and_euler_of_first() -> None:
    assert error("heun", 20) < 0.2 * error("euler", 40)
    assert 1.6 < error("euler", 80) / error("euler", 160) < 2.6
    assert error("heun", 80) / error("heun", 160) > 3.0


def test_more_memory_is_better_on_a_smooth_problem() -> None:
    assert error("dpmpp_3m", 40) < error("dpmpp_2m", 40) < error("ddim", 40)
    assert error("unipc", 40) < error("dpmpp_2m", 40)


@pytest.mark.parametrize("solver", [*NOISY, "ddim"])
def test_noise_keeps_the_spread_of_the_data(solver: str) -> None:
    eta = 1.0 if solver == "ddim" else 0.0
    plan = lay_out(ZERO_SNR, solver=solver, eta=eta, num_inference_steps=400)
    generator = torch.Generator().manual_seed(3)
    state = SolverState(torch.randn(20_000, generator=generator))
    while state.index < plan.num_evaluations:
        x_0 = gaussian_x_0(state.x, plan.levels[state.index])
        state = plan.step(state, x_0, torch.randn(20_000, generator=generator))
    assert abs(float(state.x.mean()) - MEAN) < 0.02
    assert abs(float(state.x.std()) - SPREAD) < 0.02


def sde_mean(solver: Solver, published: bool = False) -> Tensor:
    """The SDE's mean before the last step, from 0, when the network says sin(lambda)."""
    state, quiet = SolverState(torch.zeros(1, dtype=torch.float64)), torch.zeros(1).double()
    oracle = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++", solver_order=3, prediction_type="sample"
    )
    give_sigmas(oracle, solver, False)
    for index in range(solver.num_evaluations - 1):
        x_0 = torch.tensor([math.sin(solver.levels[index].lam)], dtype=torch.float64)
        if published:
            options = {"variance_noise": quiet, "return_dict": False}
            state = replace(
                state, x=oracle.step(x_0, oracle.timesteps[index], state.x, **options)[0]
            )
        else:
            state = solver.step(state, x_0, quiet)
    return state.x


def sde_mean_error(order: int, steps: int, published: bool = False) -> float:
    """Against the integral of 2 e^(2 lambda) sin(lambda), which is known."""
    name = f"dpmpp_{order}m_sde"
    plan = lay_out(PLAIN, solver=name, num_inference_steps=steps, timestep_spacing="karras")

    def integral(lam: float) -> float:
        return 2.0 * math.exp(2.0 * lam) * (2.0 * math.sin(lam) - math.cos(lam)) / 5.0

    begin, end = plan.levels[0], plan.levels[-2]
    exact = (integral(end.lam) - integral(begin.lam)) * math.exp(-2.0 * end.lam) * end.alpha
    return abs(float(sde_mean(plan, published)) - exact)


@pytest.mark.parametrize("order", [2, 3])
def test_sde_solvers_converge(order: int) -> None:
    assert sde_mean_error(order, 40) / sde_mean_error(order, 80) > 3.0
    assert sde_mean_error(order, 80) / sde_mean_error(order, 160) > 3.0


@pytest.mark.usefixtures("float64")
def test_third_order_sde_beats_second_where_the_oracle_as_published_does_not() -> None:
    assert sde_mean_error(3, 160) < sde_mean_error(2, 160)
    assert sde_mean_error(3, 160, published=True) > 2.0 * sde_mean_error(2, 160)


@pytest.mark.parametrize("solver", SOLVERS)
def test_chains_do_not_disturb_each_other(solver: str) -> None:
    """A solver holds nothing of a chain: interleaved at different steps, each goes as if alone."""
    plan = lay_out(on(solver), solver=solver, num_inference_steps=5)
    steps = range(plan.num_evaluations)
    noise = [n for n, _ in zip(noises(), steps, strict=False)]

    def advance(state: SolverState) -> SolverState:
        return plan.step(state, torch.tanh(state.x), noise[state.index])

    alone = SolverState(start())
    for _ in steps:
        alone = advance(alone)
    early, late = SolverState(start()), SolverState(start().flip(0))
    early = advance(advance(early))
    while late.index < plan.num_evaluations:
        late = advance(late)
        if early.index < plan.num_evaluations:
            early = advance(early)
    while early.index < plan.num_evaluations:
        early = advance(early)
    assert torch.equal(early.x, alone.x)


@pytest.mark.parametrize("solver", SOLVERS)
@given(st.data())
def test_a_restarted_chain_forgets_and_arrives(solver: str, data: st.DataObject) -> None:
    plan, noise = lay_out(on(solver), solver=solver, num_inference_steps=6), noises()
    truth = start().roll(1)
    state = SolverState(start())
    for _ in range(data.draw(st.integers(1, plan.num_evaluations - 1))):
        state = plan.step(state, 0.5 * truth, next(noise))
    index = data.draw(st.integers(0, plan.num_evaluations - 1))
    again = plan.restart(state, start(), index)
    assert again.history == () and again.anchor is None
    assert plan.levels[again.index] == plan.levels[index]
    while again.index < plan.num_evaluations:
        again = plan.step(again, truth, next(noise))
    torch.testing.assert_close(again.x, truth)


@pytest.mark.parametrize("solver", SOLVERS)
def test_only_the_noisy_need_noise(solver: str) -> None:
    plan = lay_out(on(solver), solver=solver, num_inference_steps=4)
    assert plan.needs_noise == (solver in NOISY)
    if plan.needs_noise:
        with pytest.raises(AssertionError, match="noise"):
            plan.step(SolverState(start()), start(), None)
    assert lay_out(PLAIN, solver="ddim", eta=0.1, num_inference_steps=4).needs_noise


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
def test_flow_solvers_are_refused_on_other_schedules(solver: Any) -> None:
    config = SamplingConfig(solver=solver, num_inference_steps=4)
    with pytest.raises(ConfigError, match="flow"):
        config.check_schedule(ZERO_SNR)
    with pytest.raises(ConfigError, match="flow"):
        make_solver(config, make_schedule(ZERO_SNR))
    config.check_schedule(FLOW)


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "ddim"])
def test_eta_belongs_to_ddim(solver: Any) -> None:
    with pytest.raises(ValueError, match="eta"):
        SamplingConfig(solver=solver, eta=0.5)


def test_more_steps_than_the_schedule_has_are_refused() -> None:
    short = ScheduleConfig(num_train_timesteps=10)
    config = SamplingConfig(solver="ddim", num_inference_steps=11)
    with pytest.raises(ConfigError, match="num_inference_steps"):
        config.check_schedule(short)
    with pytest.raises(ConfigError, match="num_inference_steps"):
        make_solver(config, make_schedule(short))


def test_a_state_is_not_changed_by_a_step() -> None:
    plan = lay_out(PLAIN, solver="unipc", num_inference_steps=5)
    state = plan.step(SolverState(start()), torch.tanh(start()))
    copy = replace(state, x=state.x.clone(), history=tuple(h.clone() for h in state.history))
    plan.step(state, torch.tanh(state.x))
    assert torch.equal(state.x, copy.x)
    assert all(torch.equal(a, b) for a, b in zip(state.history, copy.history, strict=True))
