"""What measures look at: a generated volume, and the real one of its mask where there is one.

Both lie on the model's grid, in [-1, 1]. What several measures need is computed once, and what
goes through all voxels is computed here, so that a scan on another device (a subclass) answers the
same by its own means. Knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.continuity import roughness, seam_ratio
from engine.evaluation.fidelity import MIN_SIZE_PX, class_means, ms_ssim
from engine.evaluation.harmonization import Change, change_of
from engine.volumes.volume import IntensityWindow

MODEL_RANGE = 2.0
"""Of an image, from -1 to 1."""
LEVELS = np.linspace(0.0, 1.0, 21)
"""At which the quantiles of a class are taken."""
_QUANTILE_DIGITS = 2


@dataclass(frozen=True)
class Scan:
    """An image with its mask.

    Attributes:
        image: `z y x` in [-1, 1].
        mask: `z y x` class numbers; 0 is background, all else is the body.
        class_names: of the classes 1, 2, ...
        intensity: what -1 and 1 are in source units.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    class_names: tuple[str, ...]
    intensity: IntensityWindow

    @cached_property
    def body(self) -> NDArray[np.bool_]:
        """`z y x`: voxels of any class."""
        return self.mask > 0

    @cached_property
    def source(self) -> NDArray[np.float32]:
        """The image in source units, clipped to the intensity window."""
        return self.intensity.to_source(self.image)

    def seam_ratio(self, joins: Sequence[int]) -> float:
        """See `continuity.seam_ratio`; over the body."""
        return seam_ratio(self.image, joins, self.body)

    @cached_property
    def roughness(self) -> float:
        """See `continuity.roughness`; over the body."""
        return roughness(self.image, self.body)

    @cached_property
    def means(self) -> dict[str, float]:
        """Mean intensity of each class, in source units."""
        return class_means(self.source, self.mask, self.class_names)

    @cached_property
    def quantiles(self) -> dict[str, tuple[float, ...]]:
        """Of each class, in source units, at evenly spaced levels from 0 to 1."""
        return class_quantiles(self.image, self.mask, self.class_names, self.intensity)


@dataclass(frozen=True)
class Subject:
    """A generated volume beside the real one of its mask.

    Attributes:
        made: the generated volume with the mask that it was made for.
        real: the case as it was; None when it has no image.
        joins: z at which slices z - 1 and z come from different windows.
        same_mask: the mask was not changed, so that the two can be compared voxel by voxel.
    """

    made: Scan
    real: Scan | None
    joins: Sequence[int]
    same_mask: bool

    @property
    def compared(self) -> Scan | None:
        """The real volume, when its mask is the generated one's."""
        return self.real if self.same_mask else None

    @cached_property
    def ms_ssim(self) -> float | None:
        """To the real volume of the same mask; None where there is none, or slices are too small.

        See `fidelity.ms_ssim`.
        """
        real, image = self.compared, self.made.image
        if real is None or min(image.shape[1:]) < MIN_SIZE_PX:
            return None
        return ms_ssim(image, real.image, MODEL_RANGE)

    @cached_property
    def change(self) -> Change | None:
        """From the real volume of the same mask to the generated one, in source units."""
        real = self.compared
        if real is None:
            return None
        tables = quantile_tables(self.made.class_names, real.quantiles, self.made.quantiles)
        return change_of(real.source, self.made.source, self.made.mask, tables)


def class_quantiles(
    image: NDArray[np.float32],
    mask: NDArray[Any],
    class_names: Sequence[str],
    intensity: IntensityWindow,
) -> dict[str, tuple[float, ...]]:
    """The distribution of each class that has a voxel, as 21 evenly spaced quantiles.

    Args:
        image: `z y x` in [-1, 1].
        mask: `z y x` class numbers.
        class_names: of the classes 1, 2, ...
        intensity: what -1 and 1 are in source units.

    Returns:
        `{class name: values in source units}`, from the smallest to the largest.
    """
    found = {}
    for number, name in enumerate(class_names, start=1):
        inside = image[mask == number]
        if inside.size:
            found[name] = kept_quantiles(np.quantile(inside, LEVELS), intensity)
    return found


def kept_quantiles(
    values: NDArray[np.floating[Any]], intensity: IntensityWindow
) -> tuple[float, ...]:
    """Quantiles in [-1, 1] -> in source units, with the digits that records keep."""
    return tuple(round(float(v), _QUANTILE_DIGITS) for v in intensity.to_source(values))


def quantile_tables(
    class_names: Sequence[str],
    before: Mapping[str, tuple[float, ...]],
    after: Mapping[str, tuple[float, ...]],
) -> dict[int, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Quantiles before and after of the classes that both have, by class number."""
    numbered = enumerate(class_names, start=1)
    return {k: (before[n], after[n]) for k, n in numbered if n in before and n in after}
