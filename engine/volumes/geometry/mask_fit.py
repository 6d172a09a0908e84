"""Whether a mask's voxels fit an image as they are stored, as its header says, or mirrored.

Labels in their right place explain more of the image's variance, and their borders lie on its
edges. The question is which of several placings fits clearly best; where none does, the answer is
None. Knows no file and no class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.volumes.volume import Array, Volume

_SAMPLE_VOXELS = 1_000_000
_CLEAR = 0.15  # of the score, to the next best placing
_MIRRORED = 0.35  # the same, where the headers give no reason for doubt
_EQUAL = 1e-6
_MIN_EXPLAINED = 0.01  # of the image's variance
_MIN_LABELLED = 100  # voxels of the sample
_AXES = "xyz"

Order = tuple[int, int, int]
Flips = tuple[bool, bool, bool]
_FLIPS: tuple[Flips, ...] = tuple((z, y, x) for z, y, x in product((False, True), repeat=3))
_AS_STORED: tuple[Order, Flips] = ((0, 1, 2), (False, False, False))


@dataclass(frozen=True)
class Placing:
    """Where a mask fits.

    Attributes:
        where: as its voxels are "stored", where its "header" puts them, or "turned": neither.
        turn: of "turned", what must be done to the voxels: `flipped along x`.
    """

    where: Literal["stored", "header", "turned"]
    turn: str = ""


def find_placing(image: Volume, mask: Volume) -> Placing | None:
    """Which placing of a mask fits its image clearly best; None where none is clearly best.

    Args:
        image: intensities on their grid.
        mask: labels; its size may be the image's with the axes in another order.
    """
    scores = _Scores(image.array)
    by_header = scores.of(_regridded(image, mask, scores.step))
    found: list[tuple[float, Placing]] = [(by_header, Placing("header"))]
    for way in _ways(image, mask):
        score = scores.of(scores.thin(_turned(mask.array, *way)))
        if way == _AS_STORED:
            found.append((score, Placing("stored")))
        elif abs(score - by_header) > _EQUAL:  # else the header says this turn: it is listed
            found.append((score, Placing("turned", _describe(*way))))
    found.sort(key=lambda pair: -pair[0])
    best, placing = found[0]
    if best == -np.inf or (len(found) > 1 and best - found[1][0] < _CLEAR):
        return None
    return placing


def mirrored(pixels: Array, labels: Array) -> str:
    """How a mask with its image's header seems to be flipped against it: `along x`, or empty."""
    scores = _Scores(pixels)
    found = {flips: scores.of(scores.thin(_turned(labels, (0, 1, 2), flips))) for flips in _FLIPS}
    best = max(found, key=lambda flips: found[flips])
    if not any(best) or found[best] - found[False, False, False] < _MIRRORED:
        return ""
    return _describe((0, 1, 2), best).removeprefix("flipped ")


class _Scores:
    """Scores label arrays on a thinned image."""

    def __init__(self, array: Array) -> None:
        self.step = max(1, int(np.ceil((array.size / _SAMPLE_VOXELS) ** (1 / 3))))
        thin = np.asarray(self.thin(array), dtype=np.float64)
        low, high = np.percentile(thin, (1.0, 99.0))
        above = thin[thin > low]
        if above.size:
            low, high = np.percentile(np.clip(above, low, high), (2.0, 98.0))
        self._pixels = np.clip(thin, low, high)
        self._total = float(self._pixels.var()) * self._pixels.size
        smooth = ndimage.gaussian_filter(self._pixels, 0.7)
        steps = [np.gradient(smooth, axis=axis) for axis in range(3) if smooth.shape[axis] > 1]
        self._edges = np.sqrt(sum((s * s for s in steps), np.zeros(smooth.shape)))

    def thin(self, array: Array) -> Array:
        return array[:: self.step, :: self.step, :: self.step]

    def of(self, labels: Array) -> float:
        """Log of the variance explained, plus half the log of the edges' strength at borders."""
        mean_edge = float(self._edges.mean())
        if np.count_nonzero(labels) < _MIN_LABELLED or self._total <= 0 or mean_edge <= 0:
            return float(-np.inf)
        _, codes = np.unique(labels, return_inverse=True)
        codes, pixels = codes.ravel(), self._pixels.ravel()
        counts = np.bincount(codes)
        sums = np.bincount(codes, pixels)
        between = float((sums**2 / counts).sum() - pixels.sum() ** 2 / pixels.size)
        explained = between / self._total
        borders = _borders(labels)
        if explained < _MIN_EXPLAINED or not borders.any():
            return float(-np.inf)
        return float(np.log(explained) + 0.5 * np.log(self._edges[borders].mean() / mean_edge))


def _ways(image: Volume, mask: Volume) -> Iterator[tuple[Order, Flips]]:
    """Orders and flips of the mask's z y x axes that give the image's size."""
    for order in permutations(range(3)):
        if tuple(mask.size_zyx[axis] for axis in order) == image.size_zyx:
            for flips in _FLIPS:
                yield (order[0], order[1], order[2]), flips


def _turned(array: Array, order: Order, flips: Flips) -> Array:
    slices = tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)
    return array.transpose(order)[slices]


def _regridded(image: Volume, mask: Volume, step: int) -> Array:
    """The mask where its header puts it, nearest neighbour on the image's thinned grid."""
    to_mask = np.linalg.solve(mask.affine, image.affine)
    z, y, x = (np.arange(0, n, step, dtype=np.float64) for n in image.size_zyx)
    inside = np.ones((z.size, y.size, x.size), dtype=np.bool_)
    places = []
    for axis in range(3):
        row = to_mask[axis]
        at = row[0] * x[None, None] + row[1] * y[None, :, None] + row[2] * z[:, None, None] + row[3]
        index = np.rint(at).astype(np.int64)
        size = mask.size_zyx[2 - axis]
        inside &= (index >= 0) & (index < size)
        places.append(np.clip(index, 0, size - 1))
    return np.where(inside, mask.array[places[2], places[1], places[0]], 0)


def _borders(labels: Array) -> NDArray[np.bool_]:
    result = np.zeros(labels.shape, dtype=np.bool_)
    for axis in range(3):
        moved, marked = np.moveaxis(labels, axis, 0), np.moveaxis(result, axis, 0)
        differs = moved[1:] != moved[:-1]
        marked[1:] |= differs
        marked[:-1] |= differs
    return result


def _describe(order: Order, flips: Flips) -> str:
    flipped = [_AXES[2 - axis] for axis in (2, 1, 0) if flips[axis]]
    parts = []
    if order != (0, 1, 2):
        parts.append(
            "its axes taken in the order " + " ".join(_AXES[2 - order[axis]] for axis in (2, 1, 0))
        )
    if flipped:
        parts.append("flipped along " + " and ".join(flipped))
    return " and ".join(parts) or "as stored"
