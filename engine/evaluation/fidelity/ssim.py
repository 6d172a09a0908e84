"""MS-SSIM of axial slices, the paper's measure of fidelity.

Pure functions on arrays; knows no files and no models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from engine.errors import VolumeError

Image = NDArray[np.floating[Any]]
Slices = NDArray[np.float64]
Scores = NDArray[np.float64]

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
        _slice_scores(
            np.asarray(image[z : z + _SLICES_AT_ONCE], np.float64),
            np.asarray(reference[z : z + _SLICES_AT_ONCE], np.float64),
            data_range,
        )
        for z in range(0, len(image), _SLICES_AT_ONCE)
    ]
    return float(np.concatenate(scores).mean())


def _slice_scores(x: Slices, y: Slices, data_range: float) -> Scores:
    """MS-SSIM of each slice: contrast at every scale, luminance at the coarsest one only."""
    scores = np.ones(len(x))
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        if scale:
            x, y = _halve(x), _halve(y)
        is_last = scale == len(_SCALE_WEIGHTS) - 1
        term = _ssim_map(x, y, data_range, with_luminance=is_last).mean(axis=(1, 2))
        scores *= np.maximum(term, 0.0) ** weight
    return scores


def _ssim_map(x: Slices, y: Slices, data_range: float, *, with_luminance: bool) -> Slices:
    """Contrast and structure (Eq. 7 there), times luminance (Eq. 6) where it is wanted."""
    c_1, c_2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x, var_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    contrast = (2 * covariance + c_2) / (var_x + var_y + c_2)
    if not with_luminance:
        return contrast
    return contrast * (2 * mean_x * mean_y + c_1) / (mean_x**2 + mean_y**2 + c_1)


def _smooth(x: Slices) -> Slices:
    """Gaussian mean around every pixel that has the whole window."""
    edge = _KERNEL_PX // 2
    offsets = np.arange(-edge, edge + 1)
    kernel = np.exp(-((offsets / _KERNEL_SIGMA_PX) ** 2) / 2)
    kernel /= kernel.sum()
    smooth = correlate1d(correlate1d(x, kernel, axis=1), kernel, axis=2)
    return np.asarray(smooth[:, edge:-edge, edge:-edge])


def _halve(x: Slices) -> Slices:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (2 * (n // 2) for n in x.shape[1:])
    rows = x[:, 0:height:2, :width] + x[:, 1:height:2, :width]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) / 4.0
