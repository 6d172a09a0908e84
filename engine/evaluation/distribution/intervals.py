"""Bootstrap intervals over patients: how far a mean would move with other patients.

Slices and replicas of one patient are not independent, so that patients are drawn, never volumes.
Pure functions on numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 2000
MIN_PATIENTS = 5
"""Fewer give no interval."""


class Estimate(NamedTuple):
    """A mean over patients.

    Attributes:
        mean: of the patients' means.
        low: of the 95 % percentile interval; None with fewer than `MIN_PATIENTS` patients.
        high: of it.
        patients: behind the mean.
        volumes: behind the mean.
    """

    mean: float
    low: float | None
    high: float | None
    patients: int
    volumes: int


def estimate(values: Mapping[str, Sequence[float]], seed: int = 0) -> Estimate | None:
    """Mean over patients with its bootstrap interval (percentile method, Efron 1979).

    Args:
        values: patient -> values of the patient's volumes; patients without any do not count.
        seed: of the resampling.

    Returns:
        None without a value.
    """
    means = [float(np.mean(v)) for _, v in sorted(values.items()) if len(v)]
    if not means:
        return None
    volumes = sum(len(v) for v in values.values())
    centre = float(np.mean(means))
    if len(means) < MIN_PATIENTS:
        return Estimate(centre, None, None, len(means), volumes)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(means), (NUM_RESAMPLES, len(means)))
    low, high = np.quantile(np.array(means)[drawn].mean(axis=1), (0.025, 0.975))
    return Estimate(centre, float(low), float(high), len(means), volumes)
