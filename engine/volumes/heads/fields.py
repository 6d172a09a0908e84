"""Random fields: noise that is correlated over a few millimetres, on grids of any spacing.

Pure functions of a generator; knows no anatomy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from engine.seeds import noise_seed

Field = NDArray[np.float32]
_COARSE_MM = 2.5  # from here on knots are cheaper than a filter over every voxel


def stream(seed: int, purpose: str, name: str, number: int = 0) -> np.random.Generator:
    """A generator for one purpose: others may be added without changing its numbers.

    Args:
        seed: of the cohort.
        purpose: what is drawn, such as "texture".
        name: of the head, and whatever else the draw depends on.
        number: of the individual.
    """
    return np.random.default_rng(noise_seed(seed, name, number, purpose))


def smooth_field(
    rng: np.random.Generator,
    size_zyx: tuple[int, int, int],
    scale_mm: float,
    spacing_mm_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Field:
    """White noise behind a Gaussian kernel of `scale_mm`, with standard deviation 1.

    Args:
        rng: where the noise comes from.
        size_zyx: voxels.
        scale_mm: standard deviation of the kernel; 0 is white noise.
        spacing_mm_zyx: voxel edges.
    """
    if scale_mm < _COARSE_MM:
        field = rng.standard_normal(size_zyx, dtype=np.float32)
        if scale_mm > 0:
            field = gaussian_filter(field, [scale_mm / s for s in spacing_mm_zyx], truncate=2.5)
            field *= np.float32(1.0 / field.std())
        return field
    kernels = [_from_knots(n, s, scale_mm) for n, s in zip(size_zyx, spacing_mm_zyx, strict=True)]
    field = rng.standard_normal([k.shape[1] for k in kernels], dtype=np.float32)
    for axis in (2, 1, 0):  # the fastest axis first: the array grows last along z
        field = np.moveaxis(np.tensordot(field, kernels[axis], axes=(axis, 1)), -1, axis)
    return np.ascontiguousarray(field)


def _from_knots(size: int, spacing_mm: float, scale_mm: float) -> Field:
    """Weights `voxel x knot`, one knot each `scale_mm`; every voxel has unit variance."""
    places = np.arange(size) * spacing_mm
    knots = np.arange(-3.0, places[-1] / scale_mm + 3.0) * scale_mm
    weights = np.exp(-(((places[:, None] - knots) / scale_mm) ** 2) / 2)
    weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
    return weights.astype(np.float32)
