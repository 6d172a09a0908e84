import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from engine.errors import VolumeError
from engine.evaluation.harmonization import (
    distribution_distance,
    medoid,
    organ_distances,
    site_spread,
)

LEVELS = np.linspace(0, 1, 2001)


@given(st.integers(0, 2**32), st.floats(-50, 50), st.floats(0.5, 3.0))
def test_the_distance_is_wasserstein(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=500), shift + scale * rng.normal(size=400)
    ours = distribution_distance(list(np.quantile(a, LEVELS)), list(np.quantile(b, LEVELS)))
    assert ours == pytest.approx(wasserstein_distance(a, b), rel=0.03, abs=0.03)


def test_a_shift_is_its_own_distance() -> None:
    assert distribution_distance([0, 1, 2], [5, 6, 7]) == 5.0
    assert organ_distances({"liver": [0, 1], "spleen": [0, 1]}, {"liver": [2, 3]}) == {"liver": 2.0}
    with pytest.raises(VolumeError, match="same levels"):
        distribution_distance([0, 1], [0, 1, 2])


def test_spread_is_between_sites_and_not_within() -> None:
    assert site_spread({"a": [0.0, 10.0], "b": [5.0]}) == 0.0
    assert site_spread({"a": [0.0], "b": [10.0]}) == 5.0
    assert site_spread({"a": [0.0], "b": []}) is None


def test_the_medoid_is_in_the_middle_whatever_the_order() -> None:
    cases = {"far": {"liver": 99.0}, "b": {"liver": 2.0, "spleen": 1.0}, "a": {"liver": 1.0}}
    assert medoid(cases) == medoid(dict(reversed(cases.items()))) == "b"
    assert medoid({"alone": {}}) == "alone"
    with pytest.raises(VolumeError, match="no cases"):
        medoid({})
