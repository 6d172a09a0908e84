import numpy as np
import pytest

from engine.errors import VolumeError
from engine.evaluation.fidelity.errors import class_absolute_errors, mean_absolute_error
from tests.evaluation.patients import DEGRADED, NAMES, anatomy, degraded, scan


def test_errors_are_those_of_numpy() -> None:
    made, truth, mask = degraded("noisy"), scan(1), anatomy(1)
    assert mean_absolute_error(made, truth, mask > 0) == pytest.approx(
        np.mean(np.abs(made[mask > 0] - truth[mask > 0])), rel=1e-5
    )
    by_class = class_absolute_errors(made, truth, mask, NAMES)
    for number, name in enumerate(NAMES, start=1):
        inside = mask == number
        assert by_class[name] == pytest.approx(np.abs(made - truth)[inside].mean(), rel=1e-5)


def test_another_patient_and_another_order_are_farther_than_another_draw() -> None:
    truth, body = scan(1), anatomy(1) > 0
    errors = {name: mean_absolute_error(degraded(name), truth, body) for name in DEGRADED}
    redrawn = mean_absolute_error(scan(1, draw=1), truth, body)
    assert redrawn is not None
    for name in ("other patient", "noisy", "upside down", "repeated slice"):
        found = errors[name]
        assert found is not None and found > redrawn, name


def test_absent_without_a_body_and_refused_on_another_grid() -> None:
    image = np.zeros((2, 4, 4))
    assert mean_absolute_error(image, image, np.zeros(image.shape, bool)) is None
    assert class_absolute_errors(image, image, np.zeros(image.shape, int), NAMES) == {}
    with pytest.raises(VolumeError, match="one grid"):
        mean_absolute_error(image, image[:1], image > 0)
