"""The intensity window of a case: what becomes -1 and 1, and what lies outside the patient.

Knows no file and no grid.
"""

from __future__ import annotations

import numpy as np

from engine.errors import VolumeError
from engine.volumes.appearance.backgrounds import Background
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.volume import Array, IntensityWindow, Volume

_MASKED_SHARE = 0.99  # of what lies outside all classes, for the source to count as masked


def find_window(
    pixels: Array | None,
    classes: Array,
    background: Background | None,
    config: PrepareConfig,
    volume: Volume,
) -> IntensityWindow:
    """The volume's intensity window, and what its source holds outside the patient.

    Args:
        pixels: canonical `z y x` intensities, or None for a mask without an image.
        classes: on the same grid, the contour among them.
        background: of the pixels.
        config: modality, window, percentiles.
        volume: for messages.

    Raises:
        VolumeError: MR whose foreground has one value only.
    """
    if config.modality == "ct":
        low, high = config.clip_hu
        return IntensityWindow(low, high, "HU", background=low)
    if pixels is None:
        return IntensityWindow(0.0, 1.0, "a.u.", background=0.0)
    low, high = (float(p) for p in np.percentile(pixels[classes > 0], config.mr_percentiles))
    if not low < high:
        raise VolumeError(
            f"{volume.source}: the foreground's intensities are all {low:g}; check that image and "
            "mask belong together"
        )
    outside = classes == 0
    if background is None or not outside.any():
        return IntensityWindow(low, high, "a.u.", background=low)
    if background.where[outside].mean() >= _MASKED_SHARE:
        return IntensityWindow(low, high, "a.u.", background.value, masked=True)
    return IntensityWindow(low, high, "a.u.", background=low)


def darkened(
    pixels: Array,
    classes: Array,
    background: Background | None,
    window: IntensityWindow,
    config: PrepareConfig,
) -> Array:
    """A background brighter than the window's dark end becomes that: the model learns one.

    Args:
        pixels: canonical `z y x` intensities.
        classes: on the same grid; only what has none is changed.
        background: of the pixels.
        window: of the volume.
        config: whether a contour separates the patient from the background.
    """
    if background is None or (config.contour == "none" and not window.masked):
        return pixels
    if max(background.value, background.outermost) <= window.low:
        return pixels
    return np.where(background.where & (classes == 0), np.float32(window.low), pixels)
