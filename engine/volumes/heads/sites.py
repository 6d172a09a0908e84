"""Sites: what a scanner and its protocol do to a head's signal.

Last stop of a head cohort: signal at 1 mm -> image on the scanner's grid. In this order: the coil's
sensitivity (bias field), the site's contrast and gamma, the point spread in the slice's plane,
averaging over the voxels of the site's grid (partial volume, slice thickness), edge enhancement,
Rician noise with the grain of an interpolated reconstruction, and the site's units. Knows no
tissue and no file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from engine.errors import ConfigError
from engine.volumes.geometry.grids import regrid
from engine.volumes.heads.fields import Field, smooth_field
from engine.volumes.volume import spacing_of

_BIAS_SCALE_MM = 45.0
_SAME_MM = 1e-3
_FULL_SIGNAL = 1.6  # the brightest tissue
_MAX_VALUE = 32767.0  # of int16


@dataclass(frozen=True)
class Site:
    """A scanner and its protocol.

    Attributes:
        name: shown in case ids.
        slice_mm: slice thickness and distance (no gap).
        pixel_mm: pixel edge in the slice.
        blur_mm: standard deviation of the point spread in the slice.
        noise: standard deviation of the noise in each of the two channels, signal 1 being T1's
            white matter.
        grain_mm: standard deviation of the kernel that correlates the noise in the slice.
        bias: standard deviation of the logarithm of the bias field.
        surface: how much brighter the head's surface is than its centre (coils).
        gamma: exponent of the signal.
        contrast: factor on the differences from the middle of the signal (echo times).
        sharpening: share of the edges that the reconstruction adds.
        units: image intensity of signal 1.
    """

    name: str
    slice_mm: float
    pixel_mm: float
    blur_mm: float
    noise: float
    grain_mm: float
    bias: float
    surface: float
    gamma: float
    contrast: float
    sharpening: float
    units: float


SITES: tuple[Site, ...] = (
    Site("A", 1.0, 1.0, 0.50, 0.026, 0.45, 0.05, 0.15, 1.00, 1.00, 0.0, 620.0),
    Site("B", 3.0, 1.0, 0.65, 0.032, 0.60, 0.08, 0.05, 1.10, 0.90, 0.3, 310.0),
    Site("C", 5.0, 1.0, 0.55, 0.022, 0.55, 0.12, 0.25, 0.92, 1.10, 0.5, 1150.0),
    Site("D", 2.0, 1.0, 0.95, 0.040, 0.95, 0.06, 0.00, 1.00, 0.85, 0.0, 180.0),
)


def find_site(name: str) -> Site:
    """A site by its name.

    Raises:
        ConfigError: there is none.
    """
    found = next((site for site in SITES if site.name == name), None)
    if found is None:
        known = ", ".join(site.name for site in SITES)
        raise ConfigError(f"head site {name!r}; choose one of {known}")
    return found


@dataclass(frozen=True)
class SiteGrid:
    """A site's grid laid over an anatomy's.

    Attributes:
        weights_zyx: `site voxel x map voxel` for each axis: the share of each map voxel in it.
        affine: 4x4 float64, voxel index (x, y, z, 1) -> RAS+ mm.
    """

    weights_zyx: list[NDArray[np.float64]]
    affine: NDArray[np.float64]

    @property
    def spacing_mm_zyx(self) -> tuple[float, float, float]:
        """Voxel edges along z, y, x."""
        return spacing_of(self.affine)


def lay_grid(site: Site, size_zyx: tuple[int, int, int], affine: NDArray[np.float64]) -> SiteGrid:
    """The site's voxels over an anatomy's, from its first slice on; what does not fill one is cut.

    Raises:
        ConfigError: voxels finer than the anatomy's, or thicker than the whole head.
    """
    edges = spacing_of(affine)
    targets = (site.slice_mm, site.pixel_mm, site.pixel_mm)
    weights, step = [], np.eye(4)
    for axis, (size, edge, target) in enumerate(zip(size_zyx, edges, targets, strict=True)):
        ratio = target / edge
        if ratio < 1.0 - _SAME_MM or ratio > size / 2:
            raise ConfigError(
                f"site {site.name}: voxels of {target:g} mm over a label map of {edge:g} mm and "
                f"{size} voxels; give the map's {edge:g} mm, or more"
            )
        if abs(ratio - 1.0) <= _SAME_MM:
            ratio = 1.0
        weights.append(_shares(size, ratio))
        step[2 - axis, 2 - axis], step[2 - axis, 3] = ratio, (ratio - 1.0) / 2
    return SiteGrid(weights, np.asarray(affine @ step))


def scan(
    signal: Field, site: Site, grid: SiteGrid, bias: np.random.Generator, noise: np.random.Generator
) -> NDArray[np.int16]:
    """The site's image of a signal, on the site's grid, whole numbers from 0.

    Args:
        signal: `z y x` at the anatomy's grid, about 0 to 1.6.
        site: scanner and protocol.
        grid: `lay_grid` of the two.
        bias: draws how the head lies in the coil.
        noise: draws the noise.
    """
    image = signal * _coil(signal.shape, site, bias)
    image = 0.6 + site.contrast * (image - 0.6)
    image = _FULL_SIGNAL * np.clip(image / _FULL_SIGNAL, 0.0, None) ** site.gamma
    image = gaussian_filter(image, (0.0, site.blur_mm, site.blur_mm), truncate=3.0)
    image = regrid(image, grid.weights_zyx, 0.0)
    pixel = grid.spacing_mm_zyx[1]
    if site.sharpening:
        smooth = gaussian_filter(image, (0.0, 1.0 / pixel, 1.0 / pixel), truncate=2.5)
        image += site.sharpening * (image - smooth)
    real, imaginary = (_grain(image.shape, site.grain_mm / pixel, noise) for _ in range(2))
    magnitude = np.hypot(image + site.noise * real, site.noise * imaginary)
    return np.asarray(np.rint(np.clip(magnitude * site.units, 0.0, _MAX_VALUE)), dtype=np.int16)


def _shares(size: int, ratio: float) -> NDArray[np.float64]:
    """How much of each map voxel lies in each site voxel; rows sum to 1."""
    first = np.arange(int(np.floor(size / ratio + 1e-6)))[:, None] * ratio
    voxel = np.arange(size)[None, :]
    overlap = np.minimum(first + ratio, voxel + 1) - np.maximum(first, voxel)
    shares = np.clip(overlap, 0.0, None)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _coil(size_zyx: tuple[int, ...], site: Site, rng: np.random.Generator) -> Field:
    """Sensitivity of the coil, 1 on average."""
    z, y, x = size_zyx
    field = smooth_field(rng, (z, y, x), _BIAS_SCALE_MM)
    axes = np.ogrid[-1.0 : 1.0 : z * 1j, -1.0 : 1.0 : y * 1j, -1.0 : 1.0 : x * 1j]
    radius = sum(axis.astype(np.float32) ** 2 for axis in axes)
    field = np.exp(np.float32(site.bias) * field) * (1.0 + np.float32(site.surface) * radius)
    return np.asarray(field / field.mean(), dtype=np.float32)


def _grain(size_zyx: tuple[int, ...], scale_px: float, rng: np.random.Generator) -> Field:
    """Noise of standard deviation 1, correlated in the slice's plane only."""
    field = rng.standard_normal(size_zyx, dtype=np.float32)
    field = gaussian_filter(field, (0.0, scale_px, scale_px), truncate=2.5)
    return np.asarray(field / field.std(), dtype=np.float32)
