"""Schedules, prediction types and ladders, against diffusers and against their own definitions."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.sampling.config import SamplingConfig
from engine.sampling.diffusion.schedule import (
    CLEAN,
    ScheduleConfig,
    add_noise,
    make_schedule,
    predicted_x_0,
    training_target,
)
from engine.sampling.diffusion.timesteps import make_ladder, spaced_timesteps
from tests.sampling.oracles import scheduler

PREDICTIONS = [
    ("scaled_linear", False, "eps"),
    ("scaled_linear", True, "v"),
    ("cosine", False, "eps"),
    ("cosine", False, "v"),
    ("cosine", True, "x_0"),
    ("flow", False, "flow"),
    ("flow", False, "v"),
    ("flow", False, "x_0"),
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["scaled_linear", "cosine"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_tables_equal_diffusers(kind: Any, zero_snr: bool) -> None:
    config = ScheduleConfig(kind=kind, zero_terminal_snr=zero_snr, prediction_type="v")
    expected = scheduler(DPMSolverMultistepScheduler, config).alphas_cumprod
    found = make_schedule(config).alphas_cumprod
    # cumprod in another order of factors after rescaling: relative 1e-10 in float64
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)


@given(st.sampled_from(PREDICTIONS), st.integers(2, 1500))
def test_tables_lose_signal_with_every_timestep(case: Any, length: int) -> None:
    kind, zero_snr, prediction = case
    schedule = make_schedule(
        ScheduleConfig(
            kind=kind,
            zero_terminal_snr=zero_snr,
            prediction_type=prediction,
            num_train_timesteps=length,
        )
    )
    assert len(schedule.alphas) == len(schedule.sigmas) == length == schedule.num_timesteps
    assert (schedule.alphas.diff() < 0).all() and (schedule.sigmas.diff() >= 0).all()
    assert schedule.alphas.min() > 0.0 and schedule.sigmas.min() > 0.0
    total = schedule.alphas + schedule.sigmas if kind == "flow" else schedule.alphas_cumprod
    rest = 0.0 if kind == "flow" else schedule.sigmas**2
    torch.testing.assert_close(total + rest, torch.ones(length).double())


def test_flow_runs_straight_to_pure_noise() -> None:
    schedule = make_schedule(ScheduleConfig(kind="flow", prediction_type="flow"))
    _, sigma = schedule.alpha_sigma(torch.tensor([0, 499, 999]))
    torch.testing.assert_close(sigma, torch.tensor([0.001, 0.5, 1.0]).double(), atol=1e-7, rtol=0.0)
    assert schedule.alphas[-1] > 0.0


@pytest.mark.parametrize(("kind", "zero_snr", "prediction"), PREDICTIONS)
def test_prediction_types_are_inverse_to_their_training_targets(
    kind: Any, zero_snr: bool, prediction: Any
) -> None:
    schedule = make_schedule(
        ScheduleConfig(kind=kind, zero_terminal_snr=zero_snr, prediction_type=prediction)
    )
    x_0, eps = torch.randn(3, 4, 3, 3).double(), torch.randn(3, 4, 3, 3).double()
    t = torch.tensor([0, 400, 999])
    x_t, target = add_noise(schedule, x_0, eps, t), training_target(schedule, x_0, eps, t)
    found = predicted_x_0(prediction, target, x_t, *schedule.alpha_sigma(t))
    torch.testing.assert_close(found, x_0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"beta_start": 0.5, "beta_end": 0.1}, "betas"),
        ({"beta_start": 0.0}, "betas"),
        ({"num_train_timesteps": 1}, "num_train_timesteps"),
        ({"zero_terminal_snr": True, "prediction_type": "eps"}, "predict v or x_0"),
        ({"kind": "cosine", "zero_terminal_snr": True}, "predict v or x_0"),
        ({"kind": "flow"}, "predict flow"),
        ({"kind": "flow", "prediction_type": "flow", "zero_terminal_snr": True}, "by itself"),
        ({"prediction_type": "flow"}, "use kind flow"),
        ({"kind": "cosine", "prediction_type": "flow"}, "use kind flow"),
    ],
)
def test_impossible_schedules_are_refused(bad: dict[str, object], message: str) -> None:
    config = ScheduleConfig.model_validate(bad)
    with pytest.raises(ConfigError, match=message):
        make_schedule(config)
    with pytest.raises(ConfigError, match=message):
        SamplingConfig().check_schedule(config)


def test_settings_stored_before_there_were_kinds_are_the_papers() -> None:
    old = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
    assert ScheduleConfig.model_validate(old).kind == "scaled_linear"


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
@pytest.mark.parametrize("steps", [2, 7, 20, 50, 333])
def test_ladders_equal_diffusers(spacing: Any, steps: int) -> None:
    oracle = DDPMScheduler(timestep_spacing=spacing, steps_offset=1 if spacing == "leading" else 0)
    oracle.set_timesteps(steps)
    # np.arange may go one rounding past the end there
    assert spaced_timesteps(spacing, steps, 1000) == tuple(oracle.timesteps.tolist()[:steps])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["scaled_linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_karras_levels_equal_diffusers(kind: Any, steps: int) -> None:
    config = ScheduleConfig(kind=kind, prediction_type="v")
    oracle = scheduler(DPMSolverMultistepScheduler, config, use_karras_sigmas=True)
    oracle.set_timesteps(steps)
    ladder = make_ladder(make_schedule(config), "karras", steps)
    ratios = torch.tensor([lev.sigma / lev.alpha for lev in ladder.levels], dtype=torch.float64)
    torch.testing.assert_close(ratios, oracle.sigmas[:-1], rtol=1e-12, atol=0.0)
    # diffusers rounds (scaled linear) or cuts (cosine) the timestep to an integer; ours is exact
    np.testing.assert_allclose(ladder.timesteps, oracle.timesteps.numpy(), atol=1.0)


@given(st.sampled_from(["trailing", "linspace", "leading"]), st.data())
def test_timesteps_fall_and_stay_on_the_schedule(spacing: Any, data: st.DataObject) -> None:
    length = data.draw(st.integers(3, 1200))
    low, high = (2, length - 1) if spacing == "leading" else (1, length)
    steps = data.draw(st.integers(low, high))
    found = spaced_timesteps(spacing, steps, length)
    assert len(found) == steps and all(a > b for a, b in pairwise(found))
    assert found[-1] >= 0 and found[0] <= length - 1
    if spacing != "leading":
        assert found[0] == length - 1


def test_karras_timesteps_lie_where_the_table_has_the_level() -> None:
    schedule = make_schedule(ScheduleConfig())
    ladder = make_ladder(schedule, "karras", 9)
    np.testing.assert_allclose((ladder.timesteps[0], ladder.timesteps[-1]), (999, 0), atol=1e-9)
    logs = (schedule.alphas / schedule.sigmas).log().numpy()
    expected = np.interp(ladder.timesteps, np.arange(1000), logs)
    np.testing.assert_allclose([level.lam for level in ladder.levels], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("spacing", "steps", "message"),
    [
        ("trailing", 0, "num_inference_steps 0"),
        ("trailing", 11, "num_inference_steps 11"),
        ("leading", 1, "leading"),
        ("leading", 10, "leading"),
    ],
)
def test_steps_that_the_schedule_does_not_have_are_refused(
    spacing: Any, steps: int, message: str
) -> None:
    schedule = make_schedule(ScheduleConfig(num_train_timesteps=10))
    with pytest.raises(ConfigError, match=message):
        make_ladder(schedule, spacing, steps)


@pytest.mark.parametrize(
    "config",
    [
        ScheduleConfig(zero_terminal_snr=True, prediction_type="v"),
        ScheduleConfig(kind="flow", prediction_type="flow"),
    ],
)
def test_karras_needs_an_end_of_sigma_over_alpha(config: ScheduleConfig) -> None:
    with pytest.raises(ConfigError, match="karras"):
        make_ladder(make_schedule(config), "karras", 5)
    with pytest.raises(ConfigError, match="karras"):
        SamplingConfig(timestep_spacing="karras").check_schedule(config)


def test_the_clean_level_has_no_noise() -> None:
    assert (CLEAN.alpha, CLEAN.sigma, CLEAN.lam) == (1.0, 0.0, float("inf"))
