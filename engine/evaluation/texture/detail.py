"""Detail inside classes: how strong it is, and at which frequencies. In-plane, slice by slice.

A class's own shape must not count as detail. So only voxels inside it, `BORDER_PX` from its border,
are looked at; the smooth part of the image is a Gaussian mean over them alone (normalized
convolution, Knutsson and Westin 1993), and what is left over is the detail. Pure functions on
arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.floating[Any]]

DETAIL_SIGMA_PX = 1.5
"""What is smoother than a Gaussian of this width is no detail."""
BORDER_PX = 2
"""Of a class's border, which an image may blur: no voxel nearer to it counts."""
_SPECTRUM_SIGMA_PX = 4.0  # a spectrum keeps coarser texture, too
MIN_VOXELS = 200
"""Of a class, or nothing is said of its texture."""
NUM_BANDS = 8
"""Of a spectrum, from 0 to half a cycle a pixel."""


def detail_deviations(
    image: Image, mask: NDArray[np.integer[Any]], names: Sequence[str]
) -> dict[str, float]:
    """Standard deviation of the detail inside each class, in the image's unit.

    Args:
        image: `z y x`.
        mask: `z y x` class numbers.
        names: of the classes 1, 2, ...; those with fewer than `MIN_VOXELS` voxels away from their
            border are left out.
    """
    found = {}
    for number, name in enumerate(names, start=1):
        inside = _interior(mask == number)
        if np.count_nonzero(inside) >= MIN_VOXELS:
            found[name] = float(_detail(image, inside, DETAIL_SIGMA_PX)[inside].std())
    return found


def noise_spectra(
    image: Image, mask: NDArray[np.integer[Any]], names: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """Noise power spectrum of each class: power of the detail in `NUM_BANDS` radial bands.

    Slices with more of the class weigh more. Band k holds frequencies of k/16 to (k + 1)/16 cycles
    a pixel; its value is the mean power density, in squared units of the image.

    Returns:
        `{class name: power of each band}`; classes with fewer than `MIN_VOXELS` voxels are left
        out.
    """
    found = {}
    for number, name in enumerate(names, start=1):
        inside = _interior(mask == number)
        if np.count_nonzero(inside) >= MIN_VOXELS:
            found[name] = _spectrum(_detail(image, inside, _SPECTRUM_SIGMA_PX), inside)
    return found


def spectrum_distance(made: Sequence[float], real: Sequence[float]) -> float | None:
    """Mean magnitude of the bands' power ratio in decades: 0 is equal, 1 ten times off.

    >>> round(spectrum_distance([1.0, 10.0], [1.0, 1.0]), 6)
    0.5
    """
    a, b = np.asarray(made, np.float64), np.asarray(real, np.float64)
    if a.shape != b.shape or not b.any():
        return None
    floor = 1e-6 * float(b.max())  # a painted class has no power at all
    return float(np.abs(np.log10(np.maximum(a, floor) / np.maximum(b, floor))).mean())


def _interior(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels at least `BORDER_PX` in-plane from another class; the grid's edge is none."""
    eroded = ndimage.binary_erosion(
        inside, np.ones((1, 3, 3), bool), iterations=BORDER_PX, border_value=1
    )
    return np.asarray(eroded, np.bool_)


def _detail(image: Image, inside: NDArray[np.bool_], sigma_px: float) -> NDArray[np.float64]:
    """The image without its smooth part inside a class; 0 outside of it."""
    found = np.zeros(image.shape)
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    part, weight = image[box].astype(np.float64), inside[box].astype(np.float64)
    sigmas = (0.0, sigma_px, sigma_px)
    smooth_weight = ndimage.gaussian_filter(weight, sigmas, mode="constant")
    smooth = ndimage.gaussian_filter(part * weight, sigmas, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = np.where(weight > 0, part - smooth / smooth_weight, 0.0)
    found[box] = residual
    return found


def _spectrum(detail: NDArray[np.float64], inside: NDArray[np.bool_]) -> tuple[float, ...]:
    height, width = detail.shape[1:]
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    band = np.minimum((np.hypot(fy, fx) * 2 * NUM_BANDS).astype(int), NUM_BANDS)
    counts = np.bincount(band.ravel(), minlength=NUM_BANDS + 1)[:NUM_BANDS]
    total, voxels = np.zeros(NUM_BANDS), 0
    for plane, shown in zip(detail, inside, strict=True):
        if shown.any():
            power = np.abs(np.fft.rfft2(plane)) ** 2
            total += np.bincount(band.ravel(), power.ravel(), NUM_BANDS + 1)[:NUM_BANDS]
            voxels += int(shown.sum())
    return tuple(float(v) for v in total / np.maximum(counts, 1) / max(voxels, 1))
