"""The quality gate: is a volume, on its way out, what its mask asked for?

Works on the model's grid, where every intensity lies in [-1, 1]. A volume that is not finite never
comes this far. What is expected of organs comes from the cohort's own real volumes. Pure functions
but for `read_cohort`, which reads these; knows no plan and no ledger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from engine.config import FrozenConfig
from engine.evaluation.fidelity import class_means
from engine.runs.records import Measures
from engine.storage.places import Place
from engine.volumes.prepared_store import read_prepared
from engine.volumes.volume import IntensityWindow, PreparedCase

_DARK = -0.97  # at and below this a voxel is background
_MAD_TO_SIGMA = 1.4826


class QualityConfig(FrozenConfig):
    """What a volume must be like, and what becomes of one that is not.

    Attributes:
        policy: "mark" commits it with its flags; "retry" samples again with the sample's next seed
            and marks the last try; "quarantine" refuses it for good; "off" does not look.
        max_retries: of policy "retry".
        min_range: share of [-1, 1] between the 1st and 99th percentile inside the body.
        min_foreground: share of the body's voxels that are brighter than background, relative to
            the same share of the cohort's real volumes.
        max_seam_ratio: at window joins, and at most half as much again as anatomy alone gives.
        max_organ_deviations: distance of an organ's mean from the cohort's median, in the cohort's
            robust standard deviations.
        min_organ_spread: smallest standard deviation assumed of an organ, as a share of [-1, 1].
        cohort_cases: real volumes that are looked at to know the cohort.
    """

    policy: Literal["mark", "retry", "quarantine", "off"] = "mark"
    max_retries: int = Field(2, ge=1, le=20)
    min_range: float = Field(0.1, ge=0.0, le=1.0)
    min_foreground: float = Field(0.6, ge=0.0, le=1.0)
    max_seam_ratio: float = Field(2.0, gt=0.0)
    max_organ_deviations: float = Field(6.0, gt=0.0)
    min_organ_spread: float = Field(0.04, gt=0.0)
    cohort_cases: int = Field(64, ge=1)


class CohortStatistics(FrozenConfig):
    """What real volumes are like, on the model's grid.

    Attributes:
        num_cases: that were looked at.
        foreground: median share of the body's voxels that are brighter than background.
        organs: class name -> (median, robust standard deviation) of its mean, over the cases.
    """

    num_cases: int = 0
    foreground: float | None = None
    organs: dict[str, tuple[float, float]] = Field(default_factory=dict)


def read_cohort(cases: Iterable[Place], limit: int) -> CohortStatistics:
    """Look at evenly spread cases, one at a time.

    Args:
        cases: prepared cases with an image.
        limit: at most so many.

    Raises:
        StoreError: a case is missing or damaged.
    """
    paths = sorted(cases)
    picked = [paths[round(k)] for k in np.linspace(0, len(paths) - 1, min(limit, len(paths)))]
    foregrounds, organs = [], dict[str, list[float]]()
    for path in picked:
        case = read_prepared(path)
        if case.image is None:
            continue
        foregrounds.append(foreground_share(case.image, case.mask))
        for name, mean in class_means(case.image, case.mask, case.class_names).items():
            organs.setdefault(name, []).append(mean)
    return CohortStatistics(
        num_cases=len(foregrounds),
        foreground=round(float(np.median(foregrounds)), 4) if foregrounds else None,
        organs={name: _robust(means) for name, means in sorted(organs.items())},
    )


def foreground_share(image: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    """Share of the mask's body that is brighter than background."""
    body = mask > 0
    return float((image[body] > _DARK).mean()) if body.any() else math.nan


def judge(
    case: PreparedCase,
    image: NDArray[np.float32],
    measures: Measures,
    cohort: CohortStatistics,
    config: QualityConfig,
) -> tuple[str, ...]:
    """What is wrong with a volume; empty is nothing.

    Args:
        case: whose mask it was made for, with that mask.
        image: `z y x` in [-1, 1].
        measures: of the volume.
        cohort: what real volumes are like.
        config: limits.
    """
    body = case.mask > 0
    flags = []
    if body.any():
        low, high = np.percentile(image[body], (1.0, 99.0))
        used = float(high - low) / 2.0
        if used < config.min_range:
            flags.append(f"uses {used:.0%} of the intensity range")
        share, expected = foreground_share(image, case.mask), cohort.foreground or 1.0
        if share < config.min_foreground * expected:
            flags.append(f"body filled to {share:.0%} (real: {expected:.0%})")
    flags += _seams(measures, config)
    return (*flags, *_organs(measures, case.intensity, cohort, config))


def _seams(measures: Measures, config: QualityConfig) -> list[str]:
    ratio, real = measures.seam_ratio, measures.seam_ratio_real or 1.0
    if ratio is None or ratio <= max(config.max_seam_ratio, 1.5 * real):
        return []
    return [f"seam ratio {ratio:.2f}"]


def _organs(
    measures: Measures, window: IntensityWindow, cohort: CohortStatistics, config: QualityConfig
) -> list[str]:
    means: Mapping[str, float] = measures.class_means
    flags = []
    for name, mean in means.items():
        if name not in cohort.organs:
            continue
        median, spread = cohort.organs[name]
        value = float(window.to_model(np.array([mean]))[0])
        away = abs(value - median) / max(spread, 2.0 * config.min_organ_spread)
        if away > config.max_organ_deviations:
            flags.append(f"{name} {mean:.0f} {measures.unit}, {away:.1f} deviations off")
    return flags


def _robust(values: list[float]) -> tuple[float, float]:
    median = float(np.median(values))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(np.asarray(values) - median)))
    return round(median, 4), round(spread, 4)
