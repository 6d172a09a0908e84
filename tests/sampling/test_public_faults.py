"""What the public implementation of the paper gets wrong: each of its seven faults as a test."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.evaluation.continuity import seam_ratio
from engine.evaluation.fidelity import ms_ssim
from engine.sampling.propagation.volume_state import DenoiseItem
from engine.sampling.propagation.windows import plan_windows
from engine.sampling.sampler import Sampler
from engine.volumes.phantoms.phantom import make_phantom
from engine.volumes.prepared.prepare import ABDOMEN_CT, prepare_case, to_native
from models.autoencoder import Autoencoder
from tests.sampling.harness import SHAPE, SOLVERS, denoising, run_volume
from tests.sampling.tiny_model import FAST, request


def slice_numbers(items: Sequence[DenoiseItem]) -> list[Tensor]:
    """A denoiser whose clean slice z is filled with z."""
    return [
        torch.arange(i.window.start, i.window.stop).float().reshape(-1, 1, 1, 1).expand(-1, *SHAPE)
        for i in items
    ]


@pytest.mark.parametrize("solver", SOLVERS)
def test_1_known_slices_carry_the_noise_of_the_current_timestep(solver: str) -> None:
    shares: dict[int, list[float]] = {}

    def denoise(items: Sequence[DenoiseItem]) -> list[Tensor]:
        for item in items:
            for z in item.window.known:
                noise = item.x[z - item.window.start] - item.level.alpha * z
                shares.setdefault(item.evaluation, []).append(float(noise.std()))
                expected[item.evaluation] = item.level.sigma
        return slice_numbers(items)

    expected: dict[int, float] = {}
    plan = plan_windows(150, 8, 4, 60)
    run_volume(plan, 150, denoising(solver, 5, conditioned=False), denoise)
    for evaluation, sigma in expected.items():
        mean = math.sqrt(float(np.mean(np.square(shares[evaluation]))))
        assert mean == pytest.approx(sigma, rel=0.15), f"evaluation {evaluation}"


def test_2_down_continues_the_first_window_and_leaves_its_start_alone() -> None:
    plan = plan_windows(60, 16, 1, 22)
    assert plan.down[0].known == (22,)
    assert plan.up[0].known == (37,)
    volume = run_volume(plan, 60, denoising("dpmpp_2m", 3, True), slice_numbers)
    first = next(ended for window, ended, _ in volume.landed if window == plan.first)
    assert torch.equal(volume.latents[22:38], first), "a later window overwrote the first"


def test_3_a_shifted_tail_window_pins_every_known_slice_and_makes_none_twice() -> None:
    plan = plan_windows(40, 16, 1, 0)
    tail = plan.up[-1]
    assert tail.known == tuple(range(24, 31))
    assert sum(len(window.made) for window in plan.windows) == 40
    volume = run_volume(plan, 40, denoising("dpmpp_2m", 3, True), slice_numbers)
    expected = torch.arange(40).float().reshape(-1, 1, 1, 1).expand(-1, *SHAPE)
    torch.testing.assert_close(volume.latents, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("start", [1, 16, 31])
@pytest.mark.parametrize("num_slices", [1, 5, 15, 16, 17, 47])
def test_4_no_start_leaves_a_slice_out_and_short_volumes_work(num_slices: int, start: int) -> None:
    plan = plan_windows(num_slices, 16, 1, start)
    volume = run_volume(plan, num_slices, denoising("ddim", 2, True), slice_numbers)
    assert torch.isfinite(volume.latents).all()


def test_5_conditions_are_posterior_means_and_not_draws(weights: Path) -> None:
    sampler = Sampler.load(weights, FAST)
    first, again = (sampler.model.encode(request()).informed for _ in range(2))
    assert torch.equal(first, again)
    image = torch.from_numpy(request().informed)[None, None]
    autoencoder: Autoencoder = sampler.model.autoencoder
    with torch.inference_mode():
        mean = autoencoder.encode(image).mean
    torch.testing.assert_close(first, mean.expand_as(first))
    # That training exports the EMA weights is tested beside it, in tests/training.


def test_6_volumes_go_back_to_their_own_grid_unit_and_seed(weights: Path) -> None:
    phantom = make_phantom(0, 0)
    case = prepare_case(phantom.image, phantom.labels, ABDOMEN_CT, "case")
    assert case.image is not None
    native = to_native(case, case.image)
    assert native.size_zyx == phantom.image.size_zyx
    np.testing.assert_allclose(native.affine, phantom.image.affine)
    assert float(native.array.min()) == ABDOMEN_CT.clip_hu[0], "not in HU"
    sampler = Sampler.load(weights, FAST)
    one, two, other = (sampler.sample(request(seed=seed)).image for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_7_preparation_and_measures_come_with_the_engine() -> None:
    phantom = make_phantom(0, 1)
    case = prepare_case(phantom.image, phantom.labels, ABDOMEN_CT, "case")
    assert case.image is not None
    assert ms_ssim(case.image, case.image, 2.0) == pytest.approx(1.0)
    assert ms_ssim(np.roll(case.image, 5, axis=2), case.image, 2.0) < 0.9
    stepped = case.image.copy()
    stepped[30:] += 0.2
    body = case.mask > 0
    assert seam_ratio(stepped, (30,), body) > 2.0 * seam_ratio(case.image, (30,), body)
