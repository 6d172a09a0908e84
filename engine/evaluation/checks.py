"""Checks of measured values: what each finds wrong with a volume, in a few words.

`measures.py` says which measure has which check. Pure functions; knows no voxels and no files.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.evaluation.expectations import Expectations
from engine.evaluation.values import VolumeMeasures

Check = Callable[[VolumeMeasures, Expectations], list[str]]
"""What is wrong with a volume by one measure; empty is nothing."""

_ANATOMY_MARGIN = 1.5  # of the real volume's own seam ratio at the same z


def within(name: str, low: float, high: float) -> Check:
    """A check that a number lies between two others; one that has no meaning passes."""

    def check(measured: VolumeMeasures, expected: Expectations) -> list[str]:
        value = measured.number(name)
        if value is None or low <= value <= high:
            return []
        return [f"{name} {value:.2f}, not in {low:g} to {high:g}"]

    return check


def check_seams(measured: VolumeMeasures, expected: Expectations) -> list[str]:
    """Joins of windows must not be seen: by the limit, or by what anatomy alone gives there."""
    ratio, real = measured.number("seam_ratio"), measured.number("seam_ratio_real") or 1.0
    if ratio is None or ratio <= max(expected.limits.max_seam_ratio, _ANATOMY_MARGIN * real):
        return []
    return [f"seam ratio {ratio:.2f}"]


def check_organs(measured: VolumeMeasures, expected: Expectations) -> list[str]:
    """Mean intensities of organs must lie where those of the cohort's real volumes do."""
    limits, organs = expected.limits, expected.cohort.organs
    flags = []
    for name, mean in measured.by_class("class_means").items():
        if name not in organs:
            continue
        median, spread = organs[name]
        value = float(expected.intensity.to_model(np.array([mean]))[0])
        away = abs(value - median) / max(spread, 2.0 * limits.min_organ_spread)
        if away > limits.max_organ_deviations:
            flags.append(f"{name} {mean:.0f} {measured.unit}, {away:.1f} deviations off")
    return flags
