"""What is measured on every volume the moment it is made, on the model's grid.

Kept in the commit record, so that a summary needs to read no volume. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.continuity import roughness, seam_ratio
from engine.evaluation.fidelity import MIN_SIZE_PX, class_means, ms_ssim
from engine.evaluation.harmonization import change_of
from engine.runs.records import Measures
from engine.volumes.volume import PreparedCase

_MODEL_RANGE = 2.0
_QUANTILES = np.linspace(0.0, 1.0, 21)


def measure(
    case: PreparedCase,
    image: NDArray[np.float32],
    joins: Sequence[int],
    original: PreparedCase | None = None,
) -> Measures:
    """Measure one generated volume beside the real one of its mask, where there is one.

    The body is every voxel of the mask that is not background.

    Args:
        case: whose mask it was made for, with that mask and the volume's intensity window.
        image: generated, `z y x` in [-1, 1], on the case's prepared grid.
        joins: z at which slices z - 1 and z come from different windows.
        original: the case as it was, when its mask or window was changed: the real volume is
            measured there, and compared voxel by voxel only under the same mask.
    """
    body = case.mask > 0
    real = case.image
    own = original or case
    compared = real if own.mask is case.mask else None
    quantiles = class_quantiles(case, image)
    quantiles_real = {} if real is None else class_quantiles(own, real)
    after = case.intensity.to_source(image)
    before = None if real is None else own.intensity.to_source(real)
    change = None
    if compared is not None and before is not None:
        change = change_of(before, after, case.mask, _tables(case, quantiles_real, quantiles))
    return Measures(
        seam_ratio=_known(seam_ratio(image, joins, body)),
        seam_ratio_real=None if real is None else _known(seam_ratio(real, joins, own.mask > 0)),
        roughness=_known(roughness(image, body)),
        roughness_real=None if real is None else _known(roughness(real, own.mask > 0)),
        ms_ssim=_ms_ssim(image, compared),
        unit=case.intensity.unit,
        class_means=_class_means(case, after),
        class_means_real={} if before is None else _class_means(own, before),
        class_quantiles=quantiles,
        class_quantiles_real=quantiles_real,
        shifted=None if change is None else round(change.shifted, 3),
        redrawn=None if change is None else round(change.redrawn, 3),
    )


def _tables(
    case: PreparedCase,
    before: Mapping[str, tuple[float, ...]],
    after: Mapping[str, tuple[float, ...]],
) -> dict[int, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Quantiles before and after of the classes that both have, by class number."""
    numbered = enumerate(case.class_names, start=1)
    return {k: (before[n], after[n]) for k, n in numbered if n in before and n in after}


def _ms_ssim(image: NDArray[Any], real: NDArray[Any] | None) -> float | None:
    if real is None or min(image.shape[1:]) < MIN_SIZE_PX:
        return None
    return _known(ms_ssim(image, real, _MODEL_RANGE))


def _class_means(case: PreparedCase, source: NDArray[np.float32]) -> dict[str, float]:
    """Of a volume in source units, clipped to the intensity window."""
    means = class_means(source, case.mask, case.class_names)
    return {name: round(mean, 3) for name, mean in means.items()}


def class_quantiles(case: PreparedCase, image: NDArray[np.float32]) -> dict[str, tuple[float, ...]]:
    """In source units, at evenly spaced quantiles from 0 to 1: the class's distribution."""
    found = {}
    for number, name in enumerate(case.class_names, start=1):
        inside = image[case.mask == number]
        if inside.size:
            values = case.intensity.to_source(np.quantile(inside, _QUANTILES))
            found[name] = tuple(round(float(v), 2) for v in values)
    return found


def _known(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
