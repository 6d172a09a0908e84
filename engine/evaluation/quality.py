"""Is a volume, on its way out, what its mask asked for? All checks, one after the other.

Works on the model's grid, where every intensity lies in [-1, 1]. Pure functions; knows no files.
"""

from __future__ import annotations

import numpy as np

from engine.evaluation import measures
from engine.evaluation.expectations import Expectations, foreground_share
from engine.evaluation.subject import Scan
from engine.evaluation.values import VolumeMeasures


def judge(made: Scan, measured: VolumeMeasures, expected: Expectations) -> tuple[str, ...]:
    """What is wrong with a volume; empty is nothing.

    Args:
        made: the volume, finite, with the mask that it was made for.
        measured: of the volume.
        expected: limits, and what real volumes are like.
    """
    flags = _fills_its_body(made, expected)
    for measure in measures.MEASURES:
        if measure.check is not None:
            flags += measure.check(measured, expected)
    return tuple(flags)


def _fills_its_body(made: Scan, expected: Expectations) -> list[str]:
    """The image must use the intensity range, and be bright wherever the mask has a class."""
    limits, flags = expected.limits, []
    if not made.body.any():
        return []
    low, high = np.percentile(made.image[made.body], (1.0, 99.0))
    used = float(high - low) / 2.0
    if used < limits.min_range:
        flags.append(f"uses {used:.0%} of the intensity range")
    share, real = foreground_share(made.image, made.mask), expected.cohort.foreground or 1.0
    if share < limits.min_foreground * real:
        flags.append(f"body filled to {share:.0%} (real: {real:.0%})")
    return flags
