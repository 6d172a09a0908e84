import numpy as np
import pytest
from scipy import stats

from engine.evaluation.distribution.intervals import MIN_PATIENTS, estimate


def test_interval_is_the_percentile_bootstrap_of_scipy() -> None:
    means = np.random.default_rng(0).normal(size=12)
    found = estimate({f"p{n}": [m] for n, m in enumerate(means)})
    oracle = stats.bootstrap((means,), np.mean, method="percentile", n_resamples=5000, rng=1)
    assert found is not None and found.low is not None and found.high is not None
    assert found.low == pytest.approx(oracle.confidence_interval.low, abs=0.06)
    assert found.high == pytest.approx(oracle.confidence_interval.high, abs=0.06)
    assert found.mean == pytest.approx(means.mean())


def test_replicas_are_no_patients() -> None:
    few = estimate({"a": [1.0] * 100, "b": [3.0]})
    assert few is not None
    assert (few.mean, few.low, few.patients, few.volumes) == (2.0, None, 2, 101)
    enough = estimate({f"p{n}": [1.0, 1.0] for n in range(MIN_PATIENTS)})
    assert enough is not None and enough.low == enough.high == 1.0
    assert estimate({"a": []}) is None
