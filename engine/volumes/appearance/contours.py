"""Contours: where the body or the brain is, found once a volume and given to the model as a class.

Works on canonical `z y x` arrays (axial slices along z). What lies outside need not be the darkest
value: see `backgrounds.py`. Knows no file and no label map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.errors import VolumeError
from engine.volumes.appearance.backgrounds import Background, find_background
from engine.volumes.volume import Array

BODY_THRESHOLD_HU = -300.0
_TABLE_MM = 6.0  # slabs thinner than twice this are table, blanket or cable
_LUNG_MM = 25.0  # holes wider than twice this are lungs: no table is as thick
_GAP_MM = 21.0  # half of the widest gap in the body wall that is bridged
_STRIPPED_SHARE = 0.05  # of voxels that are background, for a brain to count as skull-stripped
_CLIPPED_SHARE = 0.05  # of voxels that equal the minimum, for CT to count as clipped to a window
_PADDING_HU = 500.0  # a constant border as bright as this is no tissue; 0 is padding, too


def find_contour(
    image: Array,
    background: Background | None,
    spacing_mm_zyx: tuple[float, float, float],
    kind: Literal["body", "brain"],
    modality: Literal["ct", "mr"],
    source: str,
) -> NDArray[np.bool_]:
    """The body, or the brain of a skull-stripped volume.

    Args:
        image: canonical `z y x`.
        background: of the image (`find_background`).
        spacing_mm_zyx: of the image.
        kind: what is looked for.
        modality: of the image.
        source: for messages.

    Raises:
        VolumeError: there is none to find.
    """
    if kind == "brain":
        return brain_contour(image, source, background)
    is_mr = modality == "mr"
    level = _mr_level if is_mr else _ct_level
    levelled, threshold = level(image, background)
    return body_contour(levelled, spacing_mm_zyx, threshold, source, dark_inside=is_mr)


def _ct_level(image: Array, background: Background | None) -> tuple[Array, float]:
    """An image whose background is dark, and the threshold of the body in it.

    Air is darkest also where a window was clipped at -200 HU, and where a regridded volume was
    padded with zeros.
    """
    low = float(image.min())
    clipped = low > BODY_THRESHOLD_HU and float(np.mean(image == low)) >= _CLIPPED_SHARE
    threshold = low if clipped else BODY_THRESHOLD_HU
    if background is None or background.outermost <= threshold:
        return image, threshold
    if background.outermost != 0 and background.outermost < _PADDING_HU:
        return image, threshold  # a body without noise that reaches the border
    return np.where(background.where, low, image), threshold


def _mr_level(image: Array, background: Background | None) -> tuple[Array, float]:
    """The same for MR, whose air is darkest unless the background was written by a tool."""
    threshold = mr_body_threshold(image)
    if background is None or background.where.all():
        return image, threshold
    rest = image[~background.where]
    low, high = np.percentile(rest, (1.0, 99.0))
    bright = background.value > threshold  # z-scores with zeros outside
    padding = background.value < low - 0.5 * (high - low)  # -1000 below air of 0
    if not bright and not padding:
        return image, threshold
    levelled = np.where(background.where, rest.min(), image)
    return levelled, mr_body_threshold(rest if bright else levelled)


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
    bright = image > threshold
    solid = _filled(bright)
    spacing_mm_yx = (spacing_mm_zyx[1], spacing_mm_zyx[2])
    holes = solid & ~bright  # lungs and gas, but the inside of a hollow table, too
    deep = _eroded(holes, _LUNG_MM, spacing_mm_yx)
    bright |= _dilated(deep, 2 * _LUNG_MM, spacing_mm_yx) & holes
    body = _largest(_eroded(solid if dark_inside else bright, _TABLE_MM, spacing_mm_yx))
    if not body.any():
        raise VolumeError(
            f"{source}: no body found above {threshold:g}; check the intensities (CT must be in "
            "HU), or prepare with contour none"
        )
    # A thin chest wall goes with the table, and the lung lies open. So bridge such gaps, take what
    # lies within as solid, and open once more: a wall with a solid lung behind it stays.
    bridged = _eroded(_dilated(body, _GAP_MM, spacing_mm_yx), _GAP_MM, spacing_mm_yx)
    backed = bright | (_filled(bridged) & solid)
    body = _largest(_eroded(backed, _TABLE_MM, spacing_mm_yx))
    grown = _dilated(body, _TABLE_MM + max(spacing_mm_yx), spacing_mm_yx)
    return _filled(_largest(grown & solid))


def mr_body_threshold(image: Array) -> float:
    """A tenth of the way from the 1st to the 99th percentile: above air noise, below fat."""
    low, high = np.percentile(image, (1.0, 99.0))
    return float(low + 0.1 * (high - low))


def brain_contour(
    image: Array, source: str, background: Background | None = None
) -> NDArray[np.bool_]:
    """Everything that is not background in a skull-stripped volume, holes filled.

    Args:
        image: canonical `z y x`.
        source: for messages.
        background: of the image, where it is known already.

    Raises:
        VolumeError: the volume has no constant background, so it is not skull-stripped.
    """
    background = background or find_background(image)
    outside = image == image.min() if background is None else background.where
    if np.mean(outside) < _STRIPPED_SHARE:
        raise VolumeError(
            f"{source}: not skull-stripped (no constant background); "
            "give a brain mask, or strip the skull first"
        )
    return _filled(_largest(~outside))


def _eroded(mask: Array, radius_mm: float, spacing_mm_yx: tuple[float, float]) -> NDArray[np.bool_]:
    """Erosion by a square in each slice; the scan's edge is no border of the body."""
    return _filtered(ndimage.minimum_filter1d, mask, radius_mm, spacing_mm_yx)


def _dilated(
    mask: Array, radius_mm: float, spacing_mm_yx: tuple[float, float]
) -> NDArray[np.bool_]:
    return _filtered(ndimage.maximum_filter1d, mask, radius_mm, spacing_mm_yx)


def _filtered(
    extreme: Callable[..., Array],
    mask: Array,
    radius_mm: float,
    spacing_mm_yx: tuple[float, float],
) -> NDArray[np.bool_]:
    result = mask.astype(np.uint8)
    for axis, spacing_mm in zip((1, 2), spacing_mm_yx, strict=True):
        reach = max(1, round(radius_mm / spacing_mm))
        result = extreme(result, 2 * reach + 1, axis=axis, mode="nearest")
    return result.astype(np.bool_)


def _largest(mask: Array) -> NDArray[np.bool_]:
    labels, count = ndimage.label(mask)
    if count < 2:
        return np.asarray(mask, dtype=np.bool_)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def _filled(mask: Array) -> NDArray[np.bool_]:
    return np.stack([ndimage.binary_fill_holes(plane) for plane in mask])
