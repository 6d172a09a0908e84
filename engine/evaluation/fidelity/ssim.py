"""MS-SSIM of axial slices, the paper's measure of fidelity.

Pure functions on arrays; knows no files and no models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from engine.errors import VolumeError

Image = NDArray[np.floating[Any]]
Slices = NDArray[np.float64]
A = TypeVar("A")

_SLICES_AT_ONCE = 4  # few enough for a core's own cache
_KERNEL_PX = 7
_KERNEL_SIGMA_PX = 1.5
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # table 1 of the paper, finest first
_K1, _K2 = 0.01, 0.03
MIN_SIZE_PX = _KERNEL_PX * 2 ** (len(_SCALE_WEIGHTS) - 1)


def ms_ssim(image: Image, reference: Image, data_range: float) -> float:
    """Multi-scale SSIM of two volumes: mean over axial slices, five scales.

    Wang, Simoncelli, Bovik: Multiscale structural similarity (2003), with a Gaussian window of 7 px
    (sigma 1.5) instead of 11, so that slices of 128 px have room for all scales. Equal to MONAI's
    metric (tested), without waiting for its import in every worker.

    Args:
        image: generated volume, `z y x`.
        reference: real volume, `z y x`, same shape.
        data_range: width of the intensity range of both, for example 2 for [-1, 1].

    Returns:
        0 (nothing in common) to 1 (equal).

    Raises:
        VolumeError: shapes differ, or slices are smaller than `MIN_SIZE_PX`.
    """
    if image.ndim != 3 or image.shape != reference.shape:
        raise VolumeError(
            f"MS-SSIM of shapes {image.shape} and {reference.shape}: "
            "pass two z y x volumes of one grid"
        )
    if min(image.shape[1:]) < MIN_SIZE_PX:
        raise VolumeError(
            f"MS-SSIM of slices of {image.shape[1:]} px: five scales need at least {MIN_SIZE_PX} px"
        )
    scores = [
        slice_scores(
            np.asarray(image[z : z + _SLICES_AT_ONCE], np.float64),
            np.asarray(reference[z : z + _SLICES_AT_ONCE], np.float64),
            data_range,
            _smooth,
        )
        for z in range(0, len(image), _SLICES_AT_ONCE)
    ]
    return float(np.concatenate(scores).mean())


def slice_scores(x: A, y: A, data_range: float, smooth: Callable[[A], A]) -> A:
    """MS-SSIM of each slice: contrast at every scale, luminance at the coarsest one only.

    Works on arrays of any library (NumPy's, or a GPU's): plain arithmetic but for `smooth`.

    Args:
        x: `z y x` float64.
        y: of the same shape.
        data_range: see `ms_ssim`.
        smooth: Gaussian mean (`KERNEL`) around every pixel that has the whole window.

    Returns:
        A score for each z.
    """
    scores: Any = 1.0
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        if scale:
            x, y = _halve(x), _halve(y)
        is_last = scale == len(_SCALE_WEIGHTS) - 1
        term: Any = _ssim_map(x, y, data_range, smooth, with_luminance=is_last)
        scores = scores * term.mean(axis=(1, 2)).clip(0.0) ** weight
    return scores  # type: ignore[no-any-return]


def _ssim_map(
    x: Any, y: Any, data_range: float, smooth: Callable[[Any], Any], *, with_luminance: bool
) -> Any:
    """Contrast and structure (Eq. 7 there), times luminance (Eq. 6) where it is wanted."""
    c_1, c_2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    contrast = (2 * covariance + c_2) / (var_x + var_y + c_2)
    if not with_luminance:
        return contrast
    return contrast * (2 * mean_x * mean_y + c_1) / (mean_x**2 + mean_y**2 + c_1)


def _gaussian() -> NDArray[np.float64]:
    edge = _KERNEL_PX // 2
    kernel = np.exp(-((np.arange(-edge, edge + 1) / _KERNEL_SIGMA_PX) ** 2) / 2)
    return np.asarray(kernel / kernel.sum())


KERNEL = _gaussian()
"""Of one axis; the window is its product with itself."""


def _smooth(x: Slices) -> Slices:
    edge = _KERNEL_PX // 2
    smooth = correlate1d(correlate1d(x, KERNEL, axis=1), KERNEL, axis=2)
    return np.asarray(smooth[:, edge:-edge, edge:-edge])


def _halve(x: Any) -> Any:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (2 * (n // 2) for n in x.shape[1:])
    rows = x[:, 0:height:2, :width] + x[:, 1:height:2, :width]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) / 4.0
