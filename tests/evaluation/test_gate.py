"""A gate that can fail: real volumes pass, and what no volume of its mask is does not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.evaluation.expectations import CohortStatistics, Expectations, QualityLimits, cohort_of
from engine.evaluation.measures import measure_volume
from engine.evaluation.quality import judge
from engine.evaluation.subject import Scan, Subject
from engine.volumes.phantoms.cohort import prepared_phantom
from engine.volumes.prepare_config import ABDOMEN_CT
from engine.volumes.volume import IntensityWindow, PreparedCase
from tests.evaluation.patients import NAMES, anatomy, degraded, scan

WINDOW = IntensityWindow(-200.0, 300.0, "HU", -1000.0)
BAD = ("painted", "foreign", "upside down", "repeated slice")


def phantoms() -> list[PreparedCase]:
    return [prepared_phantom(index, ABDOMEN_CT) for index in range(3)]


def flags_of(image: NDArray[np.float32], case: Scan, expected: Expectations) -> tuple[str, ...]:
    made = Scan(image, case.mask, case.class_names, case.intensity)
    measured = measure_volume(Subject(made, None, (), same_mask=False))
    return judge(made, measured, expected)


def spoiled(case: PreparedCase, other: PreparedCase, how: str) -> NDArray[np.float32]:
    assert case.image is not None and other.image is not None
    z = len(case.image) // 2
    if how == "painted":
        means = [case.image[case.mask == k].mean() for k in range(case.num_classes + 1)]
        return np.array(means, np.float32)[case.mask]
    if how == "foreign":
        depth = np.linspace(0, len(other.image) - 1, len(case.image)).round().astype(int)
        return np.asarray(other.image[depth])
    if how == "upside down":
        return np.ascontiguousarray(case.image[::-1])
    return np.repeat(case.image[z : z + 1], len(case.image), 0)


def test_phantoms_pass_and_their_spoiled_volumes_do_not() -> None:
    cases = phantoms()
    for index, case in enumerate(cases):
        others = [c for c in cases if c is not case]
        cohort = cohort_of((c.image, c.mask, c.class_names) for c in others if c.image is not None)
        expected = Expectations(QualityLimits(), cohort, case.intensity)
        assert case.image is not None
        own = Scan(case.image, case.mask, case.class_names, case.intensity)
        assert flags_of(case.image, own, expected) == ()
        for how in BAD:
            image = spoiled(case, cases[(index + 1) % len(cases)], how)
            assert flags_of(image, own, expected), (case.case_id, how)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("painted", "painted"),
        ("other patient", "outline"),
        ("repeated slice", "slices repeated"),
    ],
)
def test_each_spoiled_volume_is_told_by_what_it_is(name: str, words: str) -> None:
    cohort = cohort_of((scan(n), anatomy(n), NAMES) for n in range(3, 8))
    expected = Expectations(QualityLimits(), cohort, WINDOW)
    own = Scan(scan(1), anatomy(1), NAMES, WINDOW)
    assert flags_of(own.image, own, expected) == ()
    flags = flags_of(degraded(name), own, expected)
    assert any(words in flag for flag in flags), flags


def test_without_a_cohort_only_the_outline_is_judged() -> None:
    expected = Expectations(QualityLimits(), CohortStatistics(), WINDOW)
    own = Scan(scan(1), anatomy(1), NAMES, WINDOW)
    assert flags_of(degraded("painted"), own, expected) == ()
    assert flags_of(degraded("other patient"), own, expected)


def test_haze_around_a_stripped_brain_does_not_go_out_and_is_not_judged() -> None:
    expected = Expectations(QualityLimits(), CohortStatistics(), WINDOW)
    hazy = np.where(anatomy(1) > 0, scan(1), -0.9).astype(np.float32)
    for masked in (False, True):
        window = IntensityWindow(0.0, 300.0, "a.u.", 0.0, masked=masked)
        flags = flags_of(hazy, Scan(hazy, anatomy(1), NAMES, window), expected)
        assert any("outline" in flag for flag in flags) != masked
