"""Contours: where the body or the brain is, found once a volume and given to the model as a class.

Works on canonical `z y x` arrays (axial slices along z). Knows no file and no label map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.errors import VolumeError
from engine.volumes.volume import Array

BODY_THRESHOLD_HU = -300.0
_TABLE_RADIUS_MM = 6.0  # slabs thinner than twice this are table, blanket or cable
_STRIPPED_SHARE = 0.05  # of voxels that equal the minimum, for a brain to count as skull-stripped


def body_contour(
    image: Array,
    spacing_mm_zyx: tuple[float, float, float],
    threshold: float,
    source: str,
    *,
    dark_inside: bool = False,
) -> NDArray[np.bool_]:
    """Largest object brighter than `threshold`: table removed, holes filled slice by slice.

    Args:
        image: canonical `z y x`.
        spacing_mm_zyx: of the image.
        threshold: in the image's intensities; air lies below.
        source: for messages.
        dark_inside: fill holes before the table goes, for MR, where muscle is as dark as air.
            (On CT that would make a hollow table solid.)

    Raises:
        VolumeError: nothing is brighter, so there is no body to outline.
    """
    bright = _filled(image > threshold) if dark_inside else image > threshold
    _, dy, dx = spacing_mm_zyx
    core = np.stack([_eroded(plane, (dy, dx)) for plane in bright])
    body = _largest(core)
    if not body.any():
        raise VolumeError(
            f"{source}: no body found above {threshold:g}; check the intensities (CT must be in "
            "HU), or prepare with contour none"
        )
    regrown = np.stack([_dilated(plane, (dy, dx)) for plane in body]) & bright
    return _filled(regrown)


def mr_body_threshold(image: Array) -> float:
    """A tenth of the way from the 1st to the 99th percentile: above air noise, below fat."""
    low, high = np.percentile(image, (1.0, 99.0))
    return float(low + 0.1 * (high - low))


def brain_contour(image: Array, source: str) -> NDArray[np.bool_]:
    """Everything that is not background in a skull-stripped volume, holes filled.

    Raises:
        VolumeError: the volume has no constant background, so it is not skull-stripped.
    """
    background = image.min()
    if np.mean(image == background) < _STRIPPED_SHARE:
        raise VolumeError(
            f"{source}: not skull-stripped (no constant background); "
            "give a brain mask, or strip the skull first"
        )
    return _filled(_largest(image > background))


def _eroded(plane: Array, spacing_mm_yx: tuple[float, float]) -> NDArray[np.bool_]:
    if plane.all():
        return np.ones(plane.shape, np.bool_)
    depth = ndimage.distance_transform_edt(plane, sampling=spacing_mm_yx)
    return np.asarray(depth > _TABLE_RADIUS_MM)


def _dilated(plane: Array, spacing_mm_yx: tuple[float, float]) -> NDArray[np.bool_]:
    if not plane.any():
        return np.zeros(plane.shape, np.bool_)
    away = ndimage.distance_transform_edt(~plane, sampling=spacing_mm_yx)
    reach = _TABLE_RADIUS_MM + max(spacing_mm_yx)
    return np.asarray(away <= reach)


def _largest(mask: Array) -> NDArray[np.bool_]:
    labels, count = ndimage.label(mask)
    if count < 2:
        return np.asarray(mask, dtype=np.bool_)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def _filled(mask: Array) -> NDArray[np.bool_]:
    return np.stack([ndimage.binary_fill_holes(plane) for plane in mask])
