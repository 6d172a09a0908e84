"""Texture measures see what MS-SSIM rewards: blur, painting, noise, seams and shuffled slices."""

import numpy as np
import pytest
from scipy import ndimage

from engine.evaluation.texture.detail import (
    detail_deviations,
    noise_spectra,
    spectrum_distance,
)
from engine.evaluation.texture.edges import edge_match
from engine.evaluation.texture.flicker import brightness_flicker, flicker
from tests.evaluation.patients import NAMES, TEXTURE, anatomy, degraded, scan


def test_detail_is_that_of_a_gaussian_high_pass_far_from_borders() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(scale=0.1, size=(4, 96, 96))
    mask = np.ones(image.shape, np.uint8)
    oracle = image - ndimage.gaussian_filter(image, (0, 1.5, 1.5), mode="constant")
    inner = (slice(None), slice(8, -8), slice(8, -8))
    found = detail_deviations(image[inner], mask[inner], ("a",))["a"]
    assert found == pytest.approx(oracle[inner].std(), rel=0.02)


def test_a_ramp_across_a_class_and_its_border_are_no_detail() -> None:
    _, y, x = np.mgrid[:4, :64, :64].astype(float)
    mask = np.where(x < 40, 1, 2).astype(np.uint8)
    image = np.where(x < 40, 0.0, 5.0) + 0.001 * y
    assert max(detail_deviations(image, mask, ("a", "b")).values()) < 0.001


def test_white_noise_has_a_flat_spectrum_of_its_own_variance() -> None:
    image = np.random.default_rng(1).normal(scale=0.2, size=(8, 96, 96))
    mask = np.ones(image.shape, np.uint8)
    power = noise_spectra(image, mask, ("a",))["a"]
    np.testing.assert_allclose(power[2:], 0.2**2, rtol=0.1)  # the coarsest bands are smoothed off
    assert power[0] < 0.01


def test_detail_orders_degradations() -> None:
    mask = anatomy(1)
    real = detail_deviations(scan(1), mask, NAMES)["body"]
    assert 0.5 * TEXTURE < real < TEXTURE
    ratio = {
        name: detail_deviations(degraded(name), mask, NAMES)["body"] / real
        for name in ("blurred", "painted", "noisy")
    }
    again = detail_deviations(scan(1, draw=1), mask, NAMES)["body"] / real
    assert ratio["painted"] == pytest.approx(0.0, abs=1e-6)
    assert ratio["blurred"] < 0.5 and ratio["noisy"] > 1.5
    assert again == pytest.approx(1.0, abs=0.05)


def test_spectra_tell_noise_and_blur_from_another_draw() -> None:
    mask = anatomy(1)
    real = noise_spectra(scan(1), mask, NAMES)["body"]

    def away(image: np.ndarray) -> float:
        found = spectrum_distance(noise_spectra(image, mask, NAMES)["body"], real)
        assert found is not None
        return found

    again = away(scan(1, draw=1))
    assert again < 0.1
    assert all(away(degraded(name)) > 3 * again for name in ("blurred", "painted", "noisy"))
    assert spectrum_distance(real, [0.0] * len(real)) is None


def test_edges_are_where_the_mask_says_only_in_the_own_anatomy() -> None:
    truth, mask = scan(1), anatomy(1)
    same, again = edge_match(truth, truth, mask), edge_match(scan(1, draw=1), truth, mask)
    assert same is not None and same == pytest.approx((1.0, 1.0))
    assert again is not None
    for name in ("upside down", "other patient", "repeated slice"):
        found = edge_match(degraded(name), truth, mask)
        assert found is not None and found.agreement < again.agreement - 0.05, name
    blurred = edge_match(degraded("blurred"), truth, mask)
    assert blurred is not None and blurred.strength < 0.9 < again.strength
    assert edge_match(np.zeros_like(truth), truth, mask) is None


def test_flicker_sees_shuffled_slices_and_jumping_brightness() -> None:
    truth, body = scan(1), anatomy(1) > 0
    real, again = flicker(truth, body), flicker(scan(1, draw=1), body)
    shuffled = flicker(degraded("shuffled"), body)
    assert real and again and shuffled
    assert again == pytest.approx(real, rel=0.05) and shuffled > 1.2 * real
    jumping = truth + 0.05 * (-1.0) ** np.arange(len(truth))[:, None, None]
    calm, restless = brightness_flicker(truth, body), brightness_flicker(jumping, body)
    assert calm is not None and restless is not None
    assert restless == pytest.approx(0.2, abs=0.02) and calm < 0.02
    ramp = np.broadcast_to(np.arange(5.0)[:, None, None], (5, 3, 3))
    assert flicker(ramp, np.ones(ramp.shape, bool)) == 0.0
    assert flicker(ramp[:2], np.ones((2, 3, 3), bool)) is None
