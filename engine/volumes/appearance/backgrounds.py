"""What lies outside a patient: the constant that a tool wrote there, and where it is.

It need not be the darkest value: z-scored volumes hold zeros outside, regridded ones a padding.
Works on arrays of any axis order. Knows no file and no class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.volumes.volume import Array

_MIN_BORDER = 0.3  # of the voxels on the volume's faces
_MIN_VOLUME = 0.03  # of all voxels
_MAX_LAYERS = 3  # a background, padded, and padded again
_ROUNDING = 1e-4  # of the intensity range: zeros that were interpolated are not quite zero


@dataclass(frozen=True)
class Background:
    """A constant around the patient.

    Attributes:
        value: what lies around the patient; of several layers, the innermost.
        outermost: the most frequent value of the border.
        where: voxels that hold it (or an outer layer) and hang together with the border.
    """

    value: float
    outermost: float
    where: NDArray[np.bool_]


def border_values(array: Array) -> Array:
    """What the volume's six faces hold, one after the other."""
    faces = [array[0], array[-1], array[:, 0], array[:, -1], array[:, :, 0], array[:, :, -1]]
    return np.concatenate([face.ravel() for face in faces])


def border_mode(array: Array) -> tuple[float, float]:
    """The most frequent value on the volume's six faces, and its share of them."""
    values, counts = np.unique(border_values(array), return_counts=True)
    best = int(counts.argmax())
    return float(values[best]), float(counts[best] / counts.sum())


def find_background(image: Array) -> Background | None:
    """The constant background of a volume, or None where what lies outside is measured air.

    A layer of padding around another constant is background, too.

    Args:
        image: `z y x`.
    """
    value, share = border_mode(image)
    if share < _MIN_BORDER:
        return None
    same = image == value
    if same.mean() < _MIN_VOLUME:
        low, high = np.percentile(image, (1.0, 99.0))
        same = np.abs(image - value) <= _ROUNDING * (high - low)
        if same.mean() < _MIN_VOLUME:
            return None
    where, outermost = from_border(same), value
    for _ in range(_MAX_LAYERS - 1):
        inner = _next_layer(image, where)
        if inner is None:
            break
        value, where = inner
    return Background(value, outermost, where)


def from_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of a mask that touch the volume's faces."""
    labels, _ = ndimage.label(mask)
    touching = np.unique(border_values(labels))
    return np.asarray(np.isin(labels, touching[touching > 0]))


def _next_layer(image: Array, outside: NDArray[np.bool_]) -> tuple[float, NDArray[np.bool_]] | None:
    """Another constant right behind the background, large enough to be one, too."""
    shell = ndimage.binary_dilation(outside) & ~outside
    if not shell.any():
        return None
    values, counts = np.unique(image[shell], return_counts=True)
    best = int(counts.argmax())
    same = image == values[best]
    if counts[best] < 0.5 * counts.sum() or same.mean() < _MIN_VOLUME:
        return None
    rest = ~(outside | same)
    if rest.mean() < _MIN_VOLUME:  # the patient himself, painted in one value
        return None
    return float(values[best]), from_border(same | outside)
