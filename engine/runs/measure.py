"""What is measured on every volume the moment it is made, on the model's grid.

Kept in the commit record, so that a summary needs to read no volume. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.continuity import roughness, seam_ratio
from engine.evaluation.fidelity import MIN_SIZE_PX, class_means, ms_ssim
from engine.runs.ledger import Measures
from engine.volumes.volume import PreparedCase

_MODEL_RANGE = 2.0


def measure(case: PreparedCase, image: NDArray[np.float32], joins: Sequence[int]) -> Measures:
    """Measure one generated volume beside the real one of its mask, where there is one.

    The body is every voxel of the mask that is not background.

    Args:
        case: whose mask it was made for.
        image: generated, `z y x` in [-1, 1], on the case's prepared grid.
        joins: z at which slices z - 1 and z come from different windows.
    """
    body = case.mask > 0
    real = case.image
    return Measures(
        seam_ratio=_known(seam_ratio(image, joins, body)),
        seam_ratio_real=None if real is None else _known(seam_ratio(real, joins, body)),
        roughness=_known(roughness(image, body)),
        roughness_real=None if real is None else _known(roughness(real, body)),
        ms_ssim=_ms_ssim(image, real),
        unit=case.intensity.unit,
        class_means=_class_means(case, image),
        class_means_real={} if real is None else _class_means(case, real),
    )


def _ms_ssim(image: NDArray[Any], real: NDArray[Any] | None) -> float | None:
    if real is None or min(image.shape[1:]) < MIN_SIZE_PX:
        return None
    return _known(ms_ssim(image, real, _MODEL_RANGE))


def _class_means(case: PreparedCase, image: NDArray[np.float32]) -> dict[str, float]:
    """In source units; both volumes are clipped to the same intensity window."""
    means = class_means(case.intensity.to_source(image), case.mask, case.class_names)
    return {name: round(mean, 3) for name, mean in means.items()}


def _known(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
