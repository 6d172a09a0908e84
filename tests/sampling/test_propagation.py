"""Propagation over a fake denoiser: nothing made twice, known slices exact, order of no matter."""

from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.errors import SamplingError
from engine.sampling.config import FLOW_SOLVERS, SamplingConfig, SolverName
from engine.sampling.inpainting import KnownSlices
from engine.sampling.propagation import DenoiseItem, Propagation
from engine.sampling.schedule import Level, ScheduleConfig, make_schedule
from engine.sampling.solvers import make_solver
from engine.sampling.windows import plan_windows

SHAPE = (2, 3, 3)
SOLVERS = get_args(SolverName)


def propagation(solver: str, steps: int, conditioned: bool, paired: bool = True) -> Propagation:
    diffusion = ScheduleConfig(prediction_type="v", zero_terminal_snr=True)
    if solver in FLOW_SOLVERS:
        diffusion = ScheduleConfig(kind="flow", prediction_type="flow")
    schedule = make_schedule(diffusion)
    config = SamplingConfig(solver=solver, num_inference_steps=steps)
    return Propagation("s", 1, SHAPE, make_solver(config, schedule), conditioned, paired)


class SliceTruth:
    """A denoiser that knows the answer: slice z is filled with z. Counts what it was shown."""

    def __init__(self) -> None:
        self.shown: list[DenoiseItem] = []

    def __call__(self, items: Sequence[DenoiseItem]) -> list[Tensor]:
        self.shown += items
        return [
            torch.arange(i.window.start, i.window.stop)
            .float()[:, None, None, None]
            .expand(-1, *SHAPE)
            for i in items
        ]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(2, 20),
    st.integers(1, 19),
    st.integers(0, 60),
    st.sampled_from(SOLVERS),
    st.booleans(),
)
def test_every_slice_is_made_at_its_own_height(
    num_slices: int, window: int, overlap: int, start: int, solver: str, conditioned: bool
) -> None:
    overlap = min(overlap, window - 1)
    plan = plan_windows(num_slices, window, overlap, start)
    result = propagation(solver, 3, conditioned).run(plan, num_slices, SliceTruth())
    expected = torch.arange(num_slices).float()[:, None, None, None].expand(-1, *SHAPE)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_known_slices_come_out_bit_equal(solver: str, conditioned: bool) -> None:
    made: dict[int, Tensor] = {}

    def denoise(items: Sequence[DenoiseItem]) -> list[Tensor]:
        return [0.5 * item.x + item.window.start for item in items]

    plan = plan_windows(30, 8, 2, 11)
    run = propagation(solver, 4, conditioned)
    latents = torch.full((30, *SHAPE), torch.nan)
    for window in plan.windows:
        before = latents.clone()
        (block,) = run._windows([window], latents, denoise)
        for z in window.known:
            assert torch.equal(block[z - window.start], before[z])
        for z in window.made:
            assert z not in made
            made[z] = latents[z] = block[z - window.start]
    assert sorted(made) == list(range(30))


def test_replacement_puts_known_slices_at_the_noise_level_of_the_step() -> None:
    known = KnownSlices(
        torch.tensor([True, False]),
        torch.full((2, *SHAPE), 3.0),
        torch.full((2, *SHAPE), -1.0),
        conditioned=False,
    )
    pinned = known.pin(torch.zeros(2, *SHAPE), Level(alpha=0.6, sigma=0.8))
    torch.testing.assert_close(pinned[0], torch.full(SHAPE, 0.6 * 3.0 - 0.8))
    assert torch.equal(pinned[1], torch.zeros(SHAPE))


def test_conditioned_known_slices_are_shown_clean_and_flagged() -> None:
    truth = SliceTruth()
    propagation("dpmpp_2m", 3, conditioned=True).run(plan_windows(12, 8, 3, 0), 12, truth)
    later = [item for item in truth.shown if item.window.known]
    assert later
    for item in later:
        assert item.known.tolist() == [z in item.window.known for z in range(4, 12)]
        torch.testing.assert_close(item.x[0], torch.full(SHAPE, 4.0))


def test_pairing_the_chains_changes_nothing() -> None:
    def denoise(items: Sequence[DenoiseItem]) -> list[Tensor]:
        return [torch.tanh(item.x) for item in items]

    plan = plan_windows(50, 8, 2, 20)
    paired, single = (
        propagation("dpmpp_2m", 4, True, paired).run(plan, 50, denoise) for paired in (True, False)
    )
    assert torch.equal(paired, single)


def test_non_finite_latents_stop_the_volume_and_name_the_place() -> None:
    def denoise(items: Sequence[DenoiseItem]) -> list[Tensor]:
        return [item.x / 0.0 * 0.0 for item in items]

    with pytest.raises(SamplingError, match=r"s: latents of slices 0 to 7 .* step 1 of 4"):
        propagation("ddim", 4, True).run(plan_windows(20, 8, 1, 0), 20, denoise)
