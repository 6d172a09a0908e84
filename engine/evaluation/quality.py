"""Is a volume, on its way out, what its mask asked for? All checks, one after the other.

Works on the model's grid, where every intensity lies in [-1, 1]. Pure functions; knows no files.
"""

from __future__ import annotations

import numpy as np

from engine.evaluation import measures
from engine.evaluation.expectations import Expectations, foreground_share
from engine.evaluation.subject import Scan
from engine.evaluation.texture.mask_truth import interior_detail, outline_gap
from engine.evaluation.values import VolumeMeasures

_OUTLINE_MARGIN = 1.5  # of the worst real volume's gap


def judge(made: Scan, measured: VolumeMeasures, expected: Expectations) -> tuple[str, ...]:
    """What is wrong with a volume; empty is nothing.

    Args:
        made: the volume, finite, with the mask that it was made for.
        measured: of the volume.
        expected: limits, and what real volumes are like.
    """
    flags = _fills_its_body(made, expected)
    if made.body.any():
        flags += _is_of_its_mask(made, measured, expected)
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


def _is_of_its_mask(made: Scan, measured: VolumeMeasures, expected: Expectations) -> list[str]:
    """Outline, detail and change along z must be those of a volume of this mask.

    Without a cohort that was looked at, only the outline is judged.
    """
    limits, cohort, flags = expected.limits, expected.cohort, []
    image = made.image
    if made.intensity.masked:  # as it goes out: nothing is left around the brain
        image = np.where(made.body, image, np.float32(-1.0))
    gap = outline_gap(image, made.body)
    if gap > max(limits.max_outline_gap, _OUTLINE_MARGIN * (cohort.outline_gap or 0.0)):
        flags.append(f"outline is {gap:.1%} off the mask's: another patient's, or upside down")
    detail = interior_detail(made.image, made.mask)
    if cohort.detail and detail < limits.min_detail * cohort.detail:
        flags.append(f"detail {detail / cohort.detail:.0%} of the real volumes': painted")
    rough = measured.number("roughness")
    if cohort.roughness and rough is not None and rough < limits.min_roughness * cohort.roughness:
        flags.append(
            f"changes along z {rough / cohort.roughness:.0%} of the real volumes': slices repeated"
        )
    return flags
