"""Known slices: at the noise level of the step, resampled when asked, exact at the end."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.sampling.diffusion.schedule import Level
from engine.sampling.propagation.inpainting import KnownSlices, renoise, resampling_walk
from engine.sampling.propagation.volume_state import DenoiseItem
from engine.sampling.propagation.windows import plan_windows
from tests.sampling.harness import SHAPE, VP_SOLVERS, denoising, run_volume


def test_replacement_puts_known_slices_at_the_noise_level_of_the_step() -> None:
    known = KnownSlices(
        torch.tensor([True, False]), torch.full((2, *SHAPE), 3.0), conditioned=False
    )
    eps = torch.full((2, *SHAPE), -1.0)
    pinned = known.pin(torch.zeros(2, *SHAPE), Level(alpha=0.6, sigma=0.8), eps)
    torch.testing.assert_close(pinned[0], torch.full(SHAPE, 0.6 * 3.0 - 0.8))
    assert torch.equal(pinned[1], torch.zeros(SHAPE))
    assert not known.shown_clean.any()


def test_conditioned_slices_are_clean_whatever_the_level() -> None:
    known = KnownSlices(torch.tensor([True, False]), torch.full((2, *SHAPE), 3.0), conditioned=True)
    pinned = known.pin(torch.zeros(2, *SHAPE), Level(alpha=0.6, sigma=0.8), None)
    assert torch.equal(pinned, known.restore(torch.zeros(2, *SHAPE)))
    assert known.shown_clean.tolist() == [True, False]


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5))
def test_the_resampling_walk_repeats_every_step_alike(
    steps: int, jump: int, resamples: int
) -> None:
    walk = resampling_walk(steps, jump, resamples)
    assert sorted(walk) == sorted([*range(steps)] * resamples)
    assert walk[0] == 0 and walk[-1] == steps - 1
    for here, there in itertools.pairwise(walk):
        assert there == here + 1 or (there % jump == 0 and here - there < jump)
    assert resampling_walk(steps, jump, 1) == tuple(range(steps))


def test_noise_put_back_has_the_amplitudes_of_the_noisier_level() -> None:
    now, target = Level(0.8, 0.6), Level(0.28, 0.96)
    draw = torch.Generator().manual_seed(0)
    eps, fresh = (torch.randn(200_000, generator=draw) for _ in range(2))
    x = renoise(now.alpha * 2.0 + now.sigma * eps, now, target, fresh)
    assert float(x.mean()) == pytest.approx(target.alpha * 2.0, abs=0.01)
    assert float(x.std()) == pytest.approx(target.sigma, abs=0.01)


@pytest.mark.parametrize("solver", VP_SOLVERS)
def test_resampling_costs_evaluations_and_keeps_known_slices(solver: str) -> None:
    seen: list[float] = []

    def denoise(items: Sequence[DenoiseItem]) -> list[Tensor]:
        seen.extend(item.level.sigma for item in items)
        return [torch.tanh(item.x) for item in items]

    plan = plan_windows(16, 8, 2, 0)
    volume = run_volume(plan, 16, denoising(solver, 6, False, num_resamples=3), denoise)
    assert len(seen) == 3 * 6 * len(plan.windows)
    assert torch.isfinite(volume.latents).all()
    assert any(b > a for a, b in itertools.pairwise(seen)), "never went back"
    for window, ended, before in volume.landed:
        rows = list(window.known_rows)
        assert torch.equal(ended[rows], before[rows])
