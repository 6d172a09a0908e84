"""Solvers against diffusers' schedulers, the oracle."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from engine.errors import ConfigError
from engine.sampling.config import SamplingConfig
from engine.sampling.schedule import (
    PredictionType,
    ScheduleConfig,
    make_schedule,
    predicted_x_0,
    training_target,
)
from engine.sampling.solvers import SolverState, make_solver

NAMES = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
COMMON = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
}


def fake_network(x: torch.Tensor, t: int) -> torch.Tensor:
    return 0.3 * x + 0.1 * torch.sin(3.0 * x + t / 300.0)


def ours(prediction: PredictionType, zero_snr: bool, config: SamplingConfig) -> torch.Tensor:
    schedule = make_schedule(ScheduleConfig(prediction_type=prediction, zero_terminal_snr=zero_snr))
    solver = make_solver(config, schedule)
    state = SolverState(
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    )
    noise = torch.Generator().manual_seed(1)
    for t in solver.timesteps:
        output = fake_network(state.x, t)
        x_0 = predicted_x_0(schedule, output, state.x, torch.full((2,), t))
        fresh = torch.randn(state.x.shape, generator=noise, dtype=torch.float64)
        state = solver.step(state, x_0, fresh)
    return state.x


def run_oracle(oracle: DDIMScheduler | DPMSolverMultistepScheduler, steps: int, **options: object):
    oracle.set_timesteps(steps)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    noise = torch.Generator().manual_seed(1)
    for t in oracle.timesteps:
        fresh = torch.randn(x.shape, generator=noise, dtype=torch.float64)
        extra = {"variance_noise": fresh, **options} if options else {}
        x = oracle.step(fake_network(x, int(t)), t, x, **extra).prev_sample
    return x


@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(
    "steps", [1, 8, 50]
)  # divisors of 1000: else diffusers drifts off its ladder
def test_ddim_equals_diffusers(prediction: PredictionType, eta: float, steps: int) -> None:
    oracle = DDIMScheduler(
        **COMMON,
        prediction_type=NAMES[prediction],
        clip_sample=False,
        set_alpha_to_one=True,
    )
    expected = run_oracle(oracle, steps, eta=eta)
    config = SamplingConfig(solver="ddim", eta=eta, num_inference_steps=steps)
    torch.testing.assert_close(ours(prediction, False, config), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
@pytest.mark.parametrize("steps", [2, 5, 20])
def test_dpmpp_2m_equals_diffusers(prediction: PredictionType, steps: int) -> None:
    oracle = DPMSolverMultistepScheduler(
        **COMMON,
        prediction_type=NAMES[prediction],
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
    )
    expected = run_oracle(oracle, steps)
    config = SamplingConfig(solver="dpmpp_2m", num_inference_steps=steps)
    torch.testing.assert_close(ours(prediction, False, config), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_zero_terminal_snr_starts_from_pure_noise_and_ends_finite(solver: str) -> None:
    result = ours("v", True, SamplingConfig(solver=solver, num_inference_steps=10))
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_a_perfect_network_is_followed_exactly(solver: str) -> None:
    schedule = make_schedule(ScheduleConfig(prediction_type="v", zero_terminal_snr=True))
    truth = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    plan = make_solver(SamplingConfig(solver=solver, num_inference_steps=6), schedule)
    state = SolverState(torch.randn(truth.shape, generator=torch.Generator().manual_seed(6)))
    for _ in plan.timesteps:
        state = plan.step(state, truth, None)
    torch.testing.assert_close(state.x, truth)


@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_prediction_types_are_inverse_to_their_training_targets(prediction: PredictionType) -> None:
    schedule = make_schedule(ScheduleConfig(prediction_type=prediction))
    x_0, eps = torch.randn(2, 4, 3, 3).double(), torch.randn(2, 4, 3, 3).double()
    t = torch.tensor([10, 900])
    alpha, sigma = (a[:, None, None, None] for a in schedule.alpha_sigma(t))
    target = training_target(schedule, x_0, eps, t)
    found = predicted_x_0(schedule, target, alpha * x_0 + sigma * eps, t)
    torch.testing.assert_close(found, x_0)


@pytest.mark.parametrize(
    "bad",
    [
        {"beta_start": 0.5, "beta_end": 0.1},
        {"beta_start": 0.0},
        {"num_train_timesteps": 1},
        {"zero_terminal_snr": True, "prediction_type": "eps"},
    ],
)
def test_impossible_schedules_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        make_schedule(ScheduleConfig.model_validate(bad))


def test_more_steps_than_the_schedule_has_are_refused() -> None:
    schedule = make_schedule(ScheduleConfig(num_train_timesteps=10))
    with pytest.raises(ConfigError, match="num_inference_steps"):
        make_solver(SamplingConfig(num_inference_steps=11), schedule)
