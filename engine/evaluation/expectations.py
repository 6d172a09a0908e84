"""What a volume should be like: limits, and what real volumes of the cohort are like.

Pure functions and values; knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from engine.config import FrozenConfig
from engine.evaluation.continuity import roughness
from engine.evaluation.fidelity import class_means
from engine.evaluation.texture.mask_truth import interior_detail, outline_gap
from engine.volumes.volume import IntensityWindow

_DARK = -0.97  # at and below this a voxel is background
_MAD_TO_SIGMA = 1.4826


class QualityLimits(FrozenConfig):
    """What a volume must be like.

    Attributes:
        min_range: share of [-1, 1] between the 1st and 99th percentile inside the body.
        min_foreground: share of the body's voxels that are brighter than background, relative to
            the same share of the cohort's real volumes.
        max_seam_ratio: at window joins, and at most half as much again as anatomy alone gives.
        max_organ_deviations: distance of an organ's mean from the cohort's median, in the cohort's
            robust standard deviations.
        min_organ_spread: smallest standard deviation assumed of an organ, as a share of [-1, 1].
        max_outline_gap: disagreement of the image's outline with the mask's, 1 minus intersection
            over union; or half as much again as the worst of the cohort's real volumes has.
        min_detail: detail inside the body, relative to the cohort's median; a painted volume has
            none.
        min_roughness: through-plane over in-plane gradient, relative to the cohort's median; one
            slice repeated has none.
    """

    min_range: float = Field(0.1, ge=0.0, le=1.0)
    min_foreground: float = Field(0.6, ge=0.0, le=1.0)
    max_seam_ratio: float = Field(2.0, gt=0.0)
    max_organ_deviations: float = Field(6.0, gt=0.0)
    min_organ_spread: float = Field(0.04, gt=0.0)
    max_outline_gap: float = Field(0.03, gt=0.0, le=1.0)
    min_detail: float = Field(0.1, ge=0.0)
    min_roughness: float = Field(0.2, ge=0.0)


class CohortStatistics(FrozenConfig):
    """What real volumes are like, on the model's grid.

    Attributes:
        num_cases: that were looked at.
        foreground: median share of the body's voxels that are brighter than background.
        organs: class name -> (median, robust standard deviation) of its mean, over the cases.
        outline_gap: largest of a case; None in runs of earlier versions.
        detail: median; likewise.
        roughness: median; likewise.
    """

    num_cases: int = 0
    foreground: float | None = None
    organs: dict[str, tuple[float, float]] = Field(default_factory=dict)
    outline_gap: float | None = None
    detail: float | None = None
    roughness: float | None = None


@dataclass(frozen=True)
class Expectations:
    """What a volume is judged by.

    Attributes:
        limits: how far it may be off.
        cohort: what real volumes are like.
        intensity: the volume's window, to put means in source units on the cohort's scale.
    """

    limits: QualityLimits
    cohort: CohortStatistics
    intensity: IntensityWindow


RealScan = tuple[NDArray[np.float32], NDArray[np.uint8], tuple[str, ...]]
"""Image `z y x` in [-1, 1], mask, and the names of its classes."""


def cohort_of(scans: Iterable[RealScan]) -> CohortStatistics:
    """Medians and robust deviations over real volumes, which are looked at one at a time."""
    foregrounds, organs = [], dict[str, list[float]]()
    gaps, details, roughnesses = [], [], []
    for image, mask, class_names in scans:
        foregrounds.append(foreground_share(image, mask))
        for name, mean in class_means(image, mask, class_names).items():
            organs.setdefault(name, []).append(mean)
        gaps.append(outline_gap(image, mask > 0))
        details.append(interior_detail(image, mask))
        roughnesses.append(roughness(image, mask > 0))
    return CohortStatistics(
        num_cases=len(foregrounds),
        foreground=round(float(np.median(foregrounds)), 4) if foregrounds else None,
        organs={name: _robust(means) for name, means in sorted(organs.items())},
        outline_gap=_told(gaps, np.max),
        detail=_told(details, np.median),
        roughness=_told(roughnesses, np.median),
    )


def foreground_share(image: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    """Share of the mask's body that is brighter than background; NaN without a body."""
    body = mask > 0
    return float((image[body] > _DARK).mean()) if body.any() else math.nan


def _told(values: list[float], of: Callable[[list[float]], Any]) -> float | None:
    """A statistic of the values that have a meaning; None without one."""
    known = [value for value in values if math.isfinite(value)]
    return round(float(of(known)), 5) if known else None


def _robust(values: list[float]) -> tuple[float, float]:
    median = float(np.median(values))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(np.asarray(values) - median)))
    return round(median, 4), round(spread, 4)
