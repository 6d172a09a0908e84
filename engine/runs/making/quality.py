"""The quality gate's policy, and the cohort that it compares with.

What is wrong with a volume is decided in `engine.evaluation.quality`; here stands what becomes of
one that is not right. Knows no plan and no ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from pydantic import Field

from engine.evaluation.expectations import CohortStatistics, QualityLimits, RealScan, cohort_of
from engine.storage.places import Place
from engine.volumes.prepared.store import read_prepared


class QualityConfig(QualityLimits):
    """What a volume must be like, and what becomes of one that is not.

    Attributes:
        policy: "mark" commits it with its flags; "retry" samples again with the sample's next seed
            and marks the last try; "quarantine" refuses it for good; "off" does not look.
        max_retries: of policy "retry".
        cohort_cases: real volumes that are looked at to know the cohort.
    """

    policy: Literal["mark", "retry", "quarantine", "off"] = "mark"
    max_retries: int = Field(2, ge=1, le=20)
    cohort_cases: int = Field(64, ge=1)


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
    return cohort_of(_scans(picked))


def _scans(paths: Iterable[Place]) -> Iterator[RealScan]:
    for path in paths:
        case = read_prepared(path)
        if case.image is not None:
            yield case.image, case.mask, case.class_names
