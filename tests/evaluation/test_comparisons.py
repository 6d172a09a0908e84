"""The table of comparisons over known degradations: each is told by at least one measure."""

import numpy as np
import pytest

from engine.evaluation.comparisons import COMPARISONS, compare_volume
from engine.evaluation.subject import Scan, Subject
from engine.evaluation.values import Value
from engine.volumes.volume import IntensityWindow
from tests.evaluation.patients import DEGRADED, NAMES, Image, anatomy, degraded, scan

WINDOW = IntensityWindow(-200.0, 300.0, "HU", -1000.0)
JOINS = (8, 16, 24)


def compared(image: Image, *, same_mask: bool = True) -> tuple[dict[str, Value], dict[str, str]]:
    real = Scan(scan(1), anatomy(1), NAMES, WINDOW)
    made = Scan(image, anatomy(1), NAMES, WINDOW)
    return compare_volume(Subject(made, real, JOINS, same_mask=same_mask))


def number(values: dict[str, Value], name: str) -> float:
    value = values[name]
    return float(np.mean(list(value.values()))) if isinstance(value, dict) else float(value or 0.0)


def test_the_truth_is_best_in_every_measure() -> None:
    values, absent = compared(scan(1))
    assert not absent and values.keys() == {m.name for m in COMPARISONS}
    for measure in COMPARISONS:
        assert number(values, measure.name) == pytest.approx(measure.best, abs=1e-4), measure.name


TOLD_BY = {
    "blurred": {"detail_ratio", "spectrum_distance", "edge_strength"},
    "noisy": {"detail_ratio", "spectrum_distance", "mae"},
    "shuffled": {"roughness_relative", "flicker_relative", "ms_ssim_coronal"},
    "seams": {"seam_relative", "brightness_flicker_relative"},
    "other patient": {"ms_ssim_body", "mae", "edge_agreement"},
    "painted": {"detail_ratio", "spectrum_distance"},
    "upside down": {"ms_ssim_body", "mae", "edge_agreement"},
    "repeated slice": {"ms_ssim_body", "roughness_relative", "flicker_relative"},
}


@pytest.mark.parametrize("name", sorted(DEGRADED))
def test_each_degradation_is_farther_from_the_best_than_another_draw(name: str) -> None:
    (again, _), (values, _) = compared(scan(1, draw=1)), compared(degraded(name))
    best = {m.name: m.best or 0.0 for m in COMPARISONS}
    for measure in TOLD_BY[name]:
        off, redrawn = (abs(number(v, measure) - best[measure]) for v in (values, again))
        assert off > 1.2 * redrawn, measure


def test_errors_are_in_source_units() -> None:
    values, _ = compared((scan(1) * 0.9).astype(np.float32))
    assert number(values, "mae") > 2.0  # HU, not shares of the range


def test_what_has_no_truth_is_absent_with_a_reason() -> None:
    values, absent = compared(scan(1), same_mask=False)
    assert values.keys() == {"seam_relative"}
    assert "mask was changed" in absent["ms_ssim_axial"] and "mask was changed" in absent["mae"]
    _, absent = compared(np.zeros_like(scan(1)))
    assert "no gradient" in absent["edge_agreement"]
    assert "constant in-plane" in absent["roughness_relative"]
