import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.continuity import roughness, seam_ratio, z_roughness


def noise(seed: int = 0, size: tuple[int, int, int] = (24, 10, 10)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size)


def everywhere(image: np.ndarray) -> np.ndarray:
    return np.ones(image.shape, dtype=bool)


def test_seam_ratio_is_the_ratio_of_the_two_means() -> None:
    image = np.cumsum(np.array([0, 1, 1, 3, 1, 1]), dtype=float)[:, None, None] * np.ones((1, 4, 4))
    assert seam_ratio(image, [3], everywhere(image)) == pytest.approx(3.0)


def test_a_volume_without_seams_has_a_ratio_near_one() -> None:
    image = noise(size=(64, 32, 32))
    assert seam_ratio(image, range(5, 60, 10), everywhere(image)) == pytest.approx(1.0, abs=0.05)


def test_only_the_body_counts() -> None:
    image = noise()
    body = np.zeros(image.shape, dtype=bool)
    body[:, 2:6, 2:6] = True
    before = seam_ratio(image, [8], body), roughness(image, body)
    image[:, 7:] += 100.0 * np.arange(24)[:, None, None]
    assert (seam_ratio(image, [8], body), roughness(image, body)) == before


@settings(max_examples=20, deadline=None)
@given(
    st.floats(0.1, 50), st.floats(-100, 100), st.sets(st.integers(1, 23), min_size=1, max_size=22)
)
def test_numbers_do_not_depend_on_the_intensity_unit(
    scale: float, offset: float, joins: set[int]
) -> None:
    image = noise()
    body = everywhere(image)
    moved = image * scale + offset
    assert seam_ratio(moved, sorted(joins), body) == pytest.approx(
        seam_ratio(image, sorted(joins), body), rel=1e-6
    )
    assert roughness(moved, body) == pytest.approx(roughness(image, body), rel=1e-6)


def test_without_joins_or_body_there_is_no_number() -> None:
    image = noise()
    assert math.isnan(seam_ratio(image, [], everywhere(image)))
    assert math.isnan(seam_ratio(image, [8], np.zeros(image.shape, dtype=bool)))
    assert math.isnan(seam_ratio(image[:1], [], everywhere(image[:1])))
    assert math.isnan(roughness(np.zeros((4, 4, 4)), np.ones((4, 4, 4), dtype=bool)))


def test_a_join_outside_the_volume_is_refused() -> None:
    with pytest.raises(ValueError, match=r"joins \[0, 24\]"):
        seam_ratio(noise(), [0, 3, 24], everywhere(noise()))


def test_roughness_of_isotropic_noise_is_one_and_of_columns_zero() -> None:
    image = noise(size=(32, 32, 32))
    assert roughness(image, everywhere(image)) == pytest.approx(1.0, abs=0.02)
    columns = np.repeat(image[:1], 32, axis=0)
    assert roughness(columns, everywhere(columns)) == 0.0


def test_z_roughness_is_relative_to_the_real_volumes() -> None:
    image = noise(size=(16, 16, 16))
    body = everywhere(image)
    assert z_roughness(image, body, roughness(image, body)) == pytest.approx(1.0)
    assert z_roughness(image, body, 0.5) == pytest.approx(2.0 * roughness(image, body))
    assert math.isnan(z_roughness(image, body, math.nan))
