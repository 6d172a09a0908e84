import numpy as np
import pytest

from engine.evaluation.diversity.informed import (
    errors_by_slice,
    influence_by_slice,
    own_height_ratio,
)
from engine.evaluation.diversity.replicas import (
    are_near_copies,
    calibration,
    spread,
    spread_by_slice,
)
from tests.evaluation.patients import anatomy, painted, scan


def test_draws_of_the_true_distribution_are_calibrated_and_a_mean_is_not() -> None:
    body = anatomy(1) > 0
    draws = [scan(1, draw) for draw in range(1, 5)]
    assert calibration(draws, scan(1), body) == pytest.approx(1.0, abs=0.05)
    mean = np.mean(draws, axis=0)
    copies = [mean + 1e-4 * draw for draw in draws]
    found = calibration(copies, scan(1), body)
    assert found is not None and found < 0.01
    assert are_near_copies(spread(copies, body), found, 2.0)
    assert not are_near_copies(spread(draws, body), 1.0, 2.0)


def test_without_a_truth_copies_are_told_by_the_range() -> None:
    body = anatomy(1) > 0
    assert are_near_copies(spread([scan(1), scan(1) + 0.001], body), None, 2.0)
    assert not are_near_copies(spread([scan(1), scan(1, 1)], body), None, 2.0)
    assert not are_near_copies(None, None, 2.0)


def test_one_replica_has_no_spread_and_no_body_none() -> None:
    body = anatomy(1) > 0
    assert spread([scan(1)], body) is None
    assert calibration([scan(1), scan(1, 1)], scan(1), np.zeros_like(body)) is None


def test_spread_says_where_along_z_replicas_differ() -> None:
    body = anatomy(1) > 0
    other = scan(1).copy()
    other[20:] = scan(1, 1)[20:]
    found = spread_by_slice([scan(1), other], body)
    assert all(v == 0.0 for v in found[:20]) and all(v and v > 0 for v in found[20:])


def test_own_height_ratio_sees_a_slice_that_is_used_at_its_height() -> None:
    truth, mask = scan(1), anatomy(1)
    made = painted(truth, mask)
    unused = own_height_ratio(made, truth, mask > 0, 16)
    assert unused is not None and unused > 0.8
    made[15:18] = truth[15:18] + 0.01
    used = own_height_ratio(made, truth, mask > 0, 16)
    assert used is not None and used < 0.3
    assert own_height_ratio(truth[:2], truth[:2], mask[:2] > 0, 0) is None


def test_influence_is_the_difference_by_slice() -> None:
    truth, body = scan(1), anatomy(1) > 0
    other = truth + np.linspace(0, 0.1, len(truth))[:, None, None]
    np.testing.assert_allclose(
        influence_by_slice(truth, other, body), np.linspace(0, 0.1, len(truth)), atol=1e-5
    )
    assert np.isnan(errors_by_slice(truth, other, np.zeros_like(body))).all()
