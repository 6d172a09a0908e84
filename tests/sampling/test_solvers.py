"""Solvers against diffusers' schedulers, the oracle, to 1e-8 in float64 (see oracles.py)."""

from itertools import product
from typing import Any

import diffusers.schedulers.scheduling_ddpm as scheduling_ddpm
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from engine.sampling.diffusion.schedule import ScheduleConfig
from tests.sampling.oracles import (
    DpmSolver,
    give_sigmas,
    give_table,
    lay_out,
    noises,
    ours,
    scheduler,
    theirs,
)

pytestmark = pytest.mark.usefixtures("float64")

VARIANCE_PRESERVING = [
    ScheduleConfig(kind=kind, zero_terminal_snr=zero_snr, prediction_type=prediction)
    for kind, zero_snr, prediction in product(
        ("scaled_linear", "cosine"), (False, True), ("eps", "v", "x_0")
    )
    if not (zero_snr and prediction == "eps")
]
FLOW = ScheduleConfig(kind="flow", prediction_type="flow")
ORDERS = {"dpmpp_2m": 2, "dpmpp_3m": 3, "dpmpp_2m_sde": 2, "dpmpp_3m_sde": 3}


def spacings(schedule: ScheduleConfig) -> tuple[str, ...]:
    return (
        ("trailing", "linspace") if schedule.ends_in_noise else ("trailing", "linspace", "karras")
    )


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def dpm_solver(solver: str, schedule: ScheduleConfig, **options: Any) -> Any:
    algorithm = "sde-dpmsolver++" if solver.endswith("sde") else "dpmsolver++"
    options |= {"algorithm_type": algorithm, "solver_order": ORDERS[solver]}
    return scheduler(DpmSolver, schedule, **options)


@pytest.mark.parametrize("schedule", VARIANCE_PRESERVING, ids=str)
@pytest.mark.parametrize("steps", [1, 8, 30])
def test_ddpm(schedule: ScheduleConfig, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for spacing in spacings(schedule):
        settings = {"num_inference_steps": steps, "timestep_spacing": spacing, "solver": "ddpm"}
        plan, noise = lay_out(schedule, **settings), noises()
        # DDPMScheduler draws its own noise; hand it the sequence of ours.
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, n=noise, **__: next(n))
        oracle = give_table(DDPMScheduler, schedule, plan)
        close(ours(schedule, **settings), theirs(oracle, plan.timesteps))


@pytest.mark.parametrize("schedule", VARIANCE_PRESERVING, ids=str)
@pytest.mark.parametrize("steps", [1, 8, 30])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(schedule: ScheduleConfig, steps: int, eta: float) -> None:
    for spacing in spacings(schedule):
        settings = {"num_inference_steps": steps, "timestep_spacing": spacing, "eta": eta}
        settings["solver"] = "ddim"
        plan = lay_out(schedule, **settings)
        oracle = give_table(DDIMScheduler, schedule, plan)
        close(ours(schedule, **settings), theirs(oracle, plan.timesteps, eta=eta, noisy=True))


@pytest.mark.parametrize("steps", [1, 8, 50])  # divisors of 1000, see oracles.py
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_ddim_on_the_oracles_own_ladder(prediction: Any, steps: int) -> None:
    schedule = ScheduleConfig(prediction_type=prediction)
    oracle = scheduler(DDIMScheduler, schedule, clip_sample=False)
    oracle.set_timesteps(steps)
    settings = {"solver": "ddim", "num_inference_steps": steps, "eta": 0.4}
    told = tuple(oracle.timesteps.tolist())
    close(ours(schedule, **settings), theirs(oracle, told, eta=0.4, noisy=True))


@pytest.mark.parametrize("schedule", [*VARIANCE_PRESERVING, FLOW], ids=str)
@pytest.mark.parametrize("solver", list(ORDERS))
@pytest.mark.parametrize("steps", [1, 2, 5, 20])  # below 15 the last orders differ
def test_dpm_solvers(schedule: ScheduleConfig, solver: str, steps: int) -> None:
    for spacing in spacings(schedule):
        settings = {"solver": solver, "num_inference_steps": steps, "timestep_spacing": spacing}
        plan = lay_out(schedule, **settings)
        oracle = dpm_solver(solver, schedule)
        give_sigmas(oracle, plan, schedule.kind == "flow")
        expected = theirs(oracle, plan.timesteps, noisy=solver.endswith("sde"))
        close(ours(schedule, **settings), expected)


@pytest.mark.parametrize("schedule", [*VARIANCE_PRESERVING, FLOW], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20])
def test_unipc(schedule: ScheduleConfig, steps: int) -> None:
    for spacing in spacings(schedule):
        settings = {"solver": "unipc", "num_inference_steps": steps, "timestep_spacing": spacing}
        plan = lay_out(schedule, **settings)
        oracle = scheduler(UniPCMultistepScheduler, schedule, solver_order=2, solver_type="bh2")
        give_sigmas(oracle, plan, schedule.kind == "flow")
        close(ours(schedule, **settings), theirs(oracle, plan.timesteps))


@pytest.mark.parametrize("schedule", VARIANCE_PRESERVING, ids=str)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_3m", "unipc"])
@pytest.mark.parametrize("steps", [5, 20])
def test_on_the_oracles_own_trailing_ladder(
    schedule: ScheduleConfig, solver: str, steps: int
) -> None:
    unipc = scheduler(UniPCMultistepScheduler, schedule, solver_order=2)
    oracle = unipc if solver == "unipc" else dpm_solver(solver, schedule)
    oracle.set_timesteps(steps)
    expected = theirs(oracle, tuple(oracle.timesteps.tolist()))
    close(ours(schedule, solver=solver, num_inference_steps=steps), expected)


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_euler(steps: int, spacing: str) -> None:
    settings = {"solver": "euler", "num_inference_steps": steps, "timestep_spacing": spacing}
    plan = lay_out(FLOW, **settings)
    oracle = FlowMatchEulerDiscreteScheduler()
    give_sigmas(oracle, plan, True)
    close(ours(FLOW, **settings), theirs(oracle, plan.timesteps))


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_heun(steps: int, spacing: str) -> None:
    settings = {"solver": "heun", "num_inference_steps": steps, "timestep_spacing": spacing}
    plan = lay_out(FLOW, **settings)
    assert plan.num_evaluations == 2 * steps - 1
    oracle = FlowMatchHeunDiscreteScheduler()
    give_sigmas(oracle, plan, True)
    close(ours(FLOW, **settings), theirs(oracle, plan.timesteps))


@pytest.mark.parametrize("steps", [4, 10, 28])  # 999 / (steps - 1) is whole: no rounding of t
@pytest.mark.parametrize(
    ("solver", "kind"),
    [("euler", FlowMatchEulerDiscreteScheduler), ("heun", FlowMatchHeunDiscreteScheduler)],
)
def test_flow_solvers_on_the_oracles_own_ladder(solver: str, kind: type, steps: int) -> None:
    oracle = kind()
    oracle.set_timesteps(steps)
    oracle.set_begin_index(0)
    told = tuple((oracle.timesteps - 1.0).tolist())  # it counts from 1 to T, we from 0
    settings = {"solver": solver, "num_inference_steps": steps, "timestep_spacing": "linspace"}
    # Ours sets out from alpha = 2^-24 (6e-8), the oracle from 0.
    close(ours(FLOW, **settings), theirs(oracle, told), tolerance=2e-7)
