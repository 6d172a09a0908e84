"""Fidelity: how close a generated volume comes to the real one with the same mask.

Pure functions on arrays; knows no files and no models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics.regression import compute_ms_ssim
from numpy.typing import NDArray

from engine.errors import VolumeError

Image = NDArray[np.floating[Any]]

_KERNEL = 7
_NUM_SCALES = 5
MIN_SIZE_PX = _KERNEL * 2 ** (_NUM_SCALES - 1)
_SLICES_AT_ONCE = 32


def ms_ssim(image: Image, reference: Image, data_range: float) -> float:
    """Multi-scale SSIM of two volumes: mean over axial slices (MONAI's 2D metric, 5 scales).

    Gaussian window of 7 px (sigma 1.5) instead of the customary 11, so that slices of 128 px have
    room for all five scales.

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
    total = 0.0
    for start in range(0, image.shape[0], _SLICES_AT_ONCE):
        part, truth = (
            torch.from_numpy(
                np.ascontiguousarray(a[start : start + _SLICES_AT_ONCE], dtype=np.float32)
            )
            for a in (image, reference)
        )
        scores = compute_ms_ssim(
            part[:, None], truth[:, None], 2, data_range=data_range, kernel_size=_KERNEL
        )
        total += float(scores.sum())
    return total / int(image.shape[0])


def class_means(
    image: Image, mask: NDArray[np.integer[Any]], names: Sequence[str]
) -> dict[str, float]:
    """Mean intensity inside each class of a mask; classes without a voxel are left out.

    Args:
        image: `z y x`, in source units (HU for CT).
        mask: `z y x` class numbers, 0 is background.
        names: names of the classes 1, 2, ...

    Returns:
        `{class name: mean}` in the order of `names`.

    Raises:
        VolumeError: shapes differ.
    """
    if image.shape != mask.shape:
        raise VolumeError(
            f"class means: image {image.shape} and mask {mask.shape} differ; pass both on one grid"
        )
    means = {}
    for number, name in enumerate(names, start=1):
        inside = mask == number
        if inside.any():
            means[name] = float(image[inside].mean(dtype=np.float64))
    return means


def mean_errors(means: Mapping[str, float], truth: Mapping[str, float]) -> dict[str, float]:
    """Generated minus real mean of each class that both have, in their unit."""
    return {name: means[name] - truth[name] for name in means if name in truth}
