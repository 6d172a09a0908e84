"""Propagation over a fake denoiser: nothing made twice, known slices exact, order of no matter."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.errors import SamplingError
from engine.sampling.propagation.volume_state import DenoiseItem
from engine.sampling.propagation.windows import plan_windows
from tests.sampling.harness import SHAPE, SOLVERS, denoising, run_volume


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


def drifting(items: Sequence[DenoiseItem]) -> list[Tensor]:
    """A denoiser that is wrong about everything, known slices included."""
    return [torch.tanh(item.x) + 0.01 * item.window.start for item in items]


@settings(max_examples=1000, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(2, 20),
    st.integers(1, 19),
    st.integers(-5, 65),
    st.sampled_from(SOLVERS),
    st.booleans(),
    st.booleans(),
    st.integers(1, 4),
)
def test_every_slice_is_made_once_and_known_slices_end_bit_equal(
    num_slices: int,
    window: int,
    overlap: int,
    start: int,
    solver: str,
    conditioned: bool,
    chained: bool,
    steps: int,
) -> None:
    plan = plan_windows(num_slices, window, min(overlap, window - 1), start)
    how = denoising(solver, steps, conditioned)
    volume = run_volume(plan, num_slices, how, drifting, chained=chained)
    made: list[int] = []
    for part, ended, before in volume.landed:
        rows = list(part.known_rows)
        assert torch.equal(ended[rows], before[rows]), "a known slice has changed"
        assert torch.isnan(before[[z - part.start for z in part.made]]).all(), "made twice"
        made += part.made
    assert sorted(made) == list(range(num_slices))
    assert torch.isfinite(volume.latents).all()


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_perfect_denoiser_puts_every_slice_at_its_own_height(
    solver: str, conditioned: bool
) -> None:
    plan = plan_windows(41, 8, 3, 17)
    volume = run_volume(plan, 41, denoising(solver, 4, conditioned), SliceTruth())
    expected = torch.arange(41).float()[:, None, None, None].expand(-1, *SHAPE)
    torch.testing.assert_close(volume.latents, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_conditioned_known_slices_are_shown_clean_and_flagged(solver: str) -> None:
    truth = SliceTruth()
    how = denoising(solver, 3, conditioned=True)
    run_volume(plan_windows(12, 8, 3, 0), 12, how, truth)
    later = [item for item in truth.shown if item.window.known]
    assert later
    for item in later:
        assert item.known.tolist() == [z in item.window.known for z in range(4, 12)]
        torch.testing.assert_close(item.x[0], torch.full(SHAPE, 4.0), atol=1e-3, rtol=1e-4)


def test_replaced_known_slices_are_not_flagged() -> None:
    truth = SliceTruth()
    run_volume(plan_windows(12, 8, 3, 0), 12, denoising("ddim", 3, conditioned=False), truth)
    assert not any(item.known.any() for item in truth.shown)


@pytest.mark.parametrize("solver", SOLVERS)
def test_side_by_side_chains_give_what_one_after_the_other_gives(solver: str) -> None:
    plan, how = plan_windows(50, 8, 2, 20), denoising(solver, 4, conditioned=True)
    both, single = (
        run_volume(plan, 50, how, drifting, side_by_side=side_by_side).latents
        for side_by_side in (True, False)
    )
    assert torch.equal(both, single)


def test_chained_windows_see_their_newest_known_slice() -> None:
    truth = SliceTruth()
    plan = plan_windows(40, 8, 2, 16)
    run_volume(plan, 40, denoising("ddim", 1, False), truth, chained=True)
    for item in truth.shown:
        if not item.window.known:
            assert item.informed is None
            continue
        assert item.informed is not None
        latent, z = item.informed
        assert z in item.window.known
        assert z + 1 in item.window.made or z - 1 in item.window.made
        torch.testing.assert_close(latent[0], torch.full(SHAPE, float(z)), atol=1e-3, rtol=1e-4)


def test_known_slices_of_a_noisy_solver_get_fresh_noise_at_every_step() -> None:
    truth = SliceTruth()
    how = denoising("ddpm", 6, conditioned=False)
    run_volume(plan_windows(12, 8, 3, 0), 12, how, truth)
    later = [item for item in truth.shown if item.window.known]
    noises = [(item.x[0] - item.level.alpha * 4.0) / item.level.sigma for item in later]
    assert len({round(float(noise.sum()), 3) for noise in noises}) == len(noises)
    assert all(0.3 < float(noise.std()) < 2.0 for noise in noises)


def test_non_finite_latents_stop_the_volume_and_name_the_place() -> None:
    def denoise(items: Sequence[DenoiseItem]) -> list[Tensor]:
        return [item.x / 0.0 * 0.0 for item in items]

    with pytest.raises(SamplingError, match=r"s: latents of slices 0 to 7 .* step 1 of 4"):
        run_volume(plan_windows(20, 8, 1, 0), 20, denoising("ddim", 4, True), denoise)
