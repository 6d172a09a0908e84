"""A case on its native grid -> PreparedCase on the model's grid, and back.

Labels become classes, a contour becomes one more class, intensities go to [-1, 1], axes to the
closest RAS+, the grid to the preset's. Everything needed to go back is kept. Knows no folder
layout, no store and no model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.appearance.backgrounds import Background, find_background
from engine.volumes.appearance.contours import find_contour
from engine.volumes.appearance.intensities import check_intensities, rescaled
from engine.volumes.appearance.window import darkened, find_window
from engine.volumes.geometry.grids import (
    AxisMap,
    Orientation,
    prepared_affine,
    regrid,
    regrid_classes,
)
from engine.volumes.geometry.mask_fit import mirrored
from engine.volumes.labels.classes import classes_of
from engine.volumes.nifti import check_same_grid, fresh_header, header_notes
from engine.volumes.prepare_config import ABDOMEN_CT, BRAIN_FLAIR, PRESETS, PrepareConfig
from engine.volumes.volume import Array, IntensityWindow, NativeGrid, PreparedCase, Volume

__all__ = [
    "ABDOMEN_CT",
    "BRAIN_FLAIR",
    "PRESETS",
    "PrepareConfig",
    "classes_of",
    "image_to_prepared",
    "mask_to_native",
    "mask_to_prepared",
    "prepare_case",
    "to_native",
]

_SAME_SPACING_MM = 1e-3


def prepare_case(
    image: Volume | None,
    labels: Volume,
    config: PrepareConfig,
    case_id: str,
    brain_mask: Volume | None = None,
) -> PreparedCase:
    """Bring one case onto the preset's grid; the mask's own grid is the one to go back to.

    Args:
        image: intensities, or None for a mask without an image.
        labels: raw labels.
        config: the preset.
        case_id: name of the case.
        brain_mask: non-zero inside the brain; used by contour "brain".

    Raises:
        VolumeError: image and mask do not fit each other or the preset; names file and remedy.
    """
    notes = _checked_notes(image, labels, brain_mask)
    orientation = Orientation.closest(labels.affine, labels.size_zyx)
    classes = orientation.to_canonical(classes_of(labels, config))
    pixels, background = None, None
    if image is not None:
        notes = (*notes, *check_intensities(image, config), *_mirror_notes(image, labels))
        pixels = orientation.to_canonical(rescaled(image, config).array)
        background = find_background(pixels)
    affine = orientation.canonical_affine(labels.affine)
    inside = _contour(pixels, background, image, labels, brain_mask, orientation, config)
    classes = _with_contour(classes, inside, config)
    axes = _axes(classes, Volume(classes, affine, labels.source), config)
    window = find_window(pixels, classes, background, config, labels if image is None else image)
    weights = [axis.to_prepared() for axis in axes]
    prepared = None
    if pixels is not None:
        pixels = darkened(pixels, classes, background, window, config)
        prepared = window.to_model(regrid(pixels, weights, -np.inf))
    return PreparedCase(
        case_id=case_id,
        image=prepared,
        mask=regrid_classes(classes, weights),
        affine=prepared_affine(affine, axes),
        native=NativeGrid(labels.affine, labels.size_zyx, labels.header or fresh_header(labels)),
        native_mask=orientation.to_native(classes),
        intensity=window,
        num_classes=len(config.all_class_names),
        class_names=config.all_class_names,
        contour=config.contour_name,
        notes=notes,
    )


def _checked_notes(
    image: Volume | None, labels: Volume, brain_mask: Volume | None
) -> tuple[str, ...]:
    """What is odd about the labels' header; volumes that do not fit each other are refused."""
    if image is not None:
        check_same_grid(image, labels)
        _refuse_constant(image)
    if brain_mask is not None:
        check_same_grid(labels, brain_mask)
    return header_notes(labels)


Regridder = Callable[[NDArray[np.float32], IntensityWindow, list[NDArray[np.float64]]], Array]
"""Image in [-1, 1], its window, weights of each axis -> source intensities on another grid."""


def regrid_source(
    image: NDArray[np.float32], intensity: IntensityWindow, weights_zyx: list[NDArray[np.float64]]
) -> Array:
    """Source intensities of an image, then another grid; what no voxel reaches is background."""
    return regrid(intensity.to_source(image), weights_zyx, intensity.background)


def to_native(
    case: PreparedCase, image: NDArray[np.float32], regridder: Regridder = regrid_source
) -> Volume:
    """A prepared image -> the mask's own grid and source intensities.

    Args:
        case: where the image's mask came from.
        image: `z y x` float32 in [-1, 1] on the case's prepared grid.
        regridder: does what `regrid_source` does, on another device.

    Returns:
        float32 `z y x`; outside the prepared crop it holds `case.intensity.background`, and where
        the source was masked also outside all classes.

    Raises:
        VolumeError: the image is not on the case's grid.
    """
    orientation, axes = _way_back(case, image)
    weights = [axis.to_canonical() for axis in axes]
    array = orientation.to_native(regridder(image, case.intensity, weights))
    if case.intensity.masked:
        array[case.native_mask == 0] = case.intensity.background
    return Volume(array, case.native.affine, case.case_id, case.native.header)


def image_to_prepared(case: PreparedCase, image: Array) -> NDArray[np.float32]:
    """Source intensities on a case's native grid (a volume of a run) -> its prepared grid.

    Going there and back smooths a little where the two grids differ, so that whoever compares a
    volume of a run with a real one sends both this way.

    Args:
        case: whose mask the image was made for.
        image: `z y x`, on the native grid.

    Returns:
        `z y x` float32 in [-1, 1].

    Raises:
        VolumeError: the image is not on the case's native grid.
    """
    _refuse_other_grid(case, image, "image", "use the case that it was made for")
    orientation, axes = _way_back(case, case.mask)
    weights = [axis.to_prepared() for axis in axes]
    return case.intensity.to_model(regrid(orientation.to_canonical(image), weights, -np.inf))


def mask_to_native(case: PreparedCase, mask: NDArray[np.uint8]) -> Volume:
    """A prepared mask (an edited one, say) -> uint8 classes on the mask's own grid.

    The case's own mask need not travel back: `case.native_mask` is it, exactly.

    Raises:
        VolumeError: the mask is not on the case's grid.
    """
    orientation, axes = _way_back(case, mask)
    array = regrid_classes(mask, [axis.to_canonical() for axis in axes])
    return Volume(
        orientation.to_native(array), case.native.affine, case.case_id, case.native.header
    )


def mask_to_prepared(case: PreparedCase, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Classes on a case's native grid (drawn by hand, say) -> its prepared grid.

    Raises:
        VolumeError: the mask is not on the case's native grid.
    """
    _refuse_other_grid(case, classes, "mask", "draw it on the case's own image")
    orientation, axes = _way_back(case, case.mask)
    return regrid_classes(orientation.to_canonical(classes), [axis.to_prepared() for axis in axes])


def _refuse_other_grid(case: PreparedCase, array: Array, what: str, remedy: str) -> None:
    if array.shape != case.native.size_zyx:
        raise VolumeError(
            f"{case.case_id}: {what} of {array.shape} is not on the case's grid "
            f"{case.native.size_zyx}; {remedy}"
        )


def _mirror_notes(image: Volume, labels: Volume) -> tuple[str, ...]:
    """A doubt, no refusal: the headers agree, and anatomy is nearly symmetric."""
    along = mirrored(image.array, labels.array)
    if not along:
        return ()
    return (
        f"the labels fit the image much better flipped {along} than as they are, although both "
        "headers agree: look at them in a viewer before this mask is used",
    )


def _refuse_constant(image: Volume) -> None:
    if image.array.min() == image.array.max():
        value = float(image.array.flat[0])
        raise VolumeError(f"{image.source}: constant image, every voxel is {value:g}; export anew")


def _contour(
    pixels: Array | None,
    background: Background | None,
    image: Volume | None,
    labels: Volume,
    brain_mask: Volume | None,
    orientation: Orientation,
    config: PrepareConfig,
) -> NDArray[np.bool_] | None:
    """Body or brain on the canonical grid; None where the settings want none."""
    if config.contour == "none":
        return None
    if config.contour == "brain" and brain_mask is not None:
        inside = orientation.to_canonical(brain_mask.array) > 0
        if not inside.any():
            raise VolumeError(f"{brain_mask.source}: empty brain mask; make it anew")
        return np.asarray(inside)
    if pixels is None or image is None:
        needed = "image or a brain mask" if config.contour == "brain" else "image"
        raise VolumeError(
            f"{labels.source}: contour {config.contour} needs the case's {needed}; "
            "add it, or use contour none"
        )
    affine = orientation.canonical_affine(image.affine)
    spacing = Volume(pixels, affine, image.source).spacing_mm_zyx
    return find_contour(pixels, background, spacing, config.contour, config.modality, image.source)


def _with_contour(
    classes: Array, inside: NDArray[np.bool_] | None, config: PrepareConfig
) -> NDArray[np.uint8]:
    if inside is None:
        return np.asarray(classes)
    contour = np.uint8(len(config.all_class_names))
    return np.where((classes == 0) & inside, contour, classes).astype(np.uint8)


def _axes(
    classes: Array, canonical: Volume, config: PrepareConfig
) -> tuple[AxisMap, AxisMap, AxisMap]:
    """Where the prepared grid lies: all z with foreground, centred on its box in-plane."""
    found = [np.flatnonzero(classes.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    low, high = ([int(f[0]) for f in found], [int(f[-1]) for f in found])
    dz, dy, dx = canonical.spacing_mm_zyx
    _check_fits(canonical, ((high[1] - low[1] + 1) * dy, (high[2] - low[2] + 1) * dx), config)
    nz, ny, nx = canonical.size_zyx
    low_z = max(0, low[0] - config.margin_slices)
    high_z = min(nz - 1, high[0] + config.margin_slices)
    ratio_z = _ratio(config.spacing_mm_z or dz, dz)
    size_z = max(1, int(np.ceil((high_z - low_z + 1) / ratio_z - 1e-6)))
    size_y, size_x = config.size_yx
    return (
        _centred(low_z, high_z, ratio_z, size_z, nz),
        _centred(low[1], high[1], _ratio(config.spacing_mm_yx, dy), size_y, ny),
        _centred(low[2], high[2], _ratio(config.spacing_mm_yx, dx), size_x, nx),
    )


def _ratio(target_mm: float, spacing_mm: float) -> float:
    return 1.0 if abs(target_mm - spacing_mm) <= _SAME_SPACING_MM else target_mm / spacing_mm


def _centred(low: int, high: int, ratio: float, size: int, canonical_size: int) -> AxisMap:
    origin = (low + high) / 2 - ratio * (size - 1) / 2
    if ratio == 1.0:
        origin = float(np.floor(origin + 0.5))
    return AxisMap(origin, ratio, size, canonical_size)


def _check_fits(
    canonical: Volume, extent_mm_yx: tuple[float, float], config: PrepareConfig
) -> None:
    if _holds(config, extent_mm_yx):
        return
    wider = [
        name
        for name, preset in PRESETS.items()
        if (preset.modality, preset.contour) == (config.modality, config.contour)
        and _holds(preset, extent_mm_yx)
    ]
    spacing = max(e / n for e, n in zip(extent_mm_yx, config.size_yx, strict=True))
    remedy = f"preset {wider[0]}" if wider else f"spacing_mm_yx {np.ceil(spacing * 10) / 10:g}"
    raise VolumeError(
        f"{canonical.source}: the foreground measures {extent_mm_yx[0]:.0f} x {extent_mm_yx[1]:.0f}"
        f" mm (y x), more than {config.size_yx[0]} x {config.size_yx[1]} pixels of "
        f"{config.spacing_mm_yx:g} mm hold; use {remedy}"
    )


def _holds(config: PrepareConfig, extent_mm_yx: tuple[float, float]) -> bool:
    pairs = zip(extent_mm_yx, config.size_yx, strict=True)
    return all(extent <= n * config.spacing_mm_yx + _SAME_SPACING_MM for extent, n in pairs)


def _way_back(
    case: PreparedCase, array: Array
) -> tuple[Orientation, tuple[AxisMap, AxisMap, AxisMap]]:
    if array.shape != case.size_zyx:
        raise VolumeError(
            f"{case.case_id}: array of {array.shape} is not on the prepared grid {case.size_zyx}; "
            "use the case that the array was made for"
        )
    orientation = Orientation.closest(case.native.affine, case.native.size_zyx)
    canonical = orientation.canonical_affine(case.native.affine)
    step = np.linalg.solve(canonical, case.affine)
    sizes = orientation.to_canonical(np.empty(case.native.size_zyx, np.bool_)).shape
    axes = []
    for axis, (size, canonical_size) in enumerate(zip(array.shape, sizes, strict=True)):
        ratio, origin = float(step[2 - axis, 2 - axis]), float(step[2 - axis, 3])
        if abs(ratio - 1.0) < 1e-6:
            ratio, origin = 1.0, float(np.rint(origin))
        axes.append(AxisMap(origin, ratio, size, canonical_size))
    return orientation, (axes[0], axes[1], axes[2])
