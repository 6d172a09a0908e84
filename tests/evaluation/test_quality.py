"""What is wrong with a volume, from arrays and measured values alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.evaluation.checks import within
from engine.evaluation.expectations import CohortStatistics, Expectations, QualityLimits, cohort_of
from engine.evaluation.measures import MEASURES, Measure, measure_volume
from engine.evaluation.quality import judge
from engine.evaluation.subject import Scan, Subject
from engine.evaluation.values import VolumeMeasures
from engine.volumes.volume import IntensityWindow

WINDOW = IntensityWindow(-200.0, 300.0, "HU", -1024.0)
MASK = np.ones((6, 16, 16), np.uint8)


def noise(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=0.2, size=MASK.shape).astype(np.float32)


def scan(image: NDArray[np.float32]) -> Scan:
    return Scan(image, MASK, ("liver",), WINDOW)


@pytest.fixture(scope="module")
def expected() -> Expectations:
    cohort = cohort_of((noise(seed), MASK, ("liver",)) for seed in range(5))
    return Expectations(QualityLimits(), cohort, WINDOW)


def flags_of(image: NDArray[np.float32], expected: Expectations) -> tuple[str, ...]:
    made = scan(image)
    measured = measure_volume(Subject(made, scan(noise(7)), (3,), same_mask=True))
    return judge(made, measured, expected)


def test_the_cohort_is_known_by_medians(expected: Expectations) -> None:
    assert expected.cohort.num_cases == 5
    assert expected.cohort.foreground == 1.0
    assert expected.cohort.organs["liver"][0] == pytest.approx(0.0, abs=0.02)
    assert cohort_of([]) == CohortStatistics()


def test_each_fault_is_named_and_a_good_volume_has_none(expected: Expectations) -> None:
    assert flags_of(noise(9), expected) == ()
    flat = flags_of(np.zeros_like(noise(9)), expected)
    assert flat == ("uses 0% of the intensity range", "detail 0% of the real volumes': painted")
    (flag,) = flags_of(noise(9) + 0.7, expected)
    assert flag.startswith("liver 224 HU, ")
    stepped = noise(9) + 0.9 * (np.arange(6) > 2)[:, None, None] - 0.45
    (flag,) = flags_of(stepped.astype(np.float32), expected)
    assert flag.startswith("seam ratio ")
    dark = np.where(np.arange(16) < 8, -1.0, noise(9)).astype(np.float32)
    flags = flags_of(dark, expected)
    assert "body filled to 50% (real: 100%)" in flags
    assert any(flag.startswith("outline is 50.0% off the mask's") for flag in flags)


def test_a_range_can_be_given(expected: Expectations) -> None:
    check = within("x", 0.0, 1.0)
    found = [
        check(VolumeMeasures(unit="HU", values={"x": value}), expected)
        for value in (None, 0.5, 2.0)
    ]
    assert found == [[], [], ["x 2.00, not in 0 to 1"]]


def test_a_volume_without_a_real_one_has_only_its_own_numbers() -> None:
    made = scan(noise(1))
    alone = measure_volume(Subject(made, None, (3,), same_mask=True)).values
    beside = measure_volume(Subject(made, scan(noise(2)), (3,), same_mask=False)).values
    assert alone.keys() == beside.keys() == {m.name for m in MEASURES if m.compute}
    for name in ("seam_ratio_real", "roughness_real", "shifted"):
        assert alone[name] is None
    assert alone["class_means_real"] == {}
    assert beside["seam_ratio_real"] is not None
    assert beside["shifted"] is None, "another mask is no likeness to compare"


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_every_measure_is_explained_and_comes_from_one_place(measure: Measure) -> None:
    assert (measure.compute is None) != (measure.derive is None)
    assert measure.title
    assert not measure.meaning.endswith(".")
