"""An anatomy's signal at 1 mm before any scanner: tissue means, texture, soft borders.

Second stop of a head cohort: `Anatomy -> signal -> (site) -> image`. What is modelled:

- each tissue has the individual's mean (`contrasts.py`);
- texture inside tissues: correlated noise at three scales with an amplitude for each tissue;
- borders are softened by a Gaussian, because a voxel at a border holds both tissues;
- fluid around the brain holds vessels (flow voids) and the dura beside the skull;
- in FLAIR and T2 a bright rim of white matter surrounds the ventricles;
- the cerebellum's cortex has folia: thin fissures with fluid, fanned out around the fourth
  ventricle;
- what the maps call soft tissue is fat below the skin and muscle with layers of fat below it.

Knows no scanner and no file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from engine.volumes.heads.anatomy import Anatomy
from engine.volumes.heads.contrasts import Contrast
from engine.volumes.heads.fields import Field, smooth_field
from engine.volumes.heads.labels import LESION_CLASSES
from engine.volumes.heads.structures import BRAIN_TISSUES, TISSUE_NAMES, where

_SCALES_MM = (0.7, 2.5, 9.0)  # of the texture: grain, clusters, regions
# standard deviation of the texture at these scales, of the tissue's own mean
_TEXTURE: dict[str, tuple[float, float, float]] = {
    "white_matter": (0.035, 0.022, 0.035),
    "cortex": (0.060, 0.045, 0.045),
    "cerebellar_cortex": (0.090, 0.060, 0.040),
    "cerebellar_white_matter": (0.050, 0.030, 0.030),
    "brainstem": (0.045, 0.045, 0.035),
    "thalamus": (0.045, 0.045, 0.035),
    "hippocampus": (0.060, 0.050, 0.030),
    "hyperintensity": (0.080, 0.080, 0.050),
    "choroid_plexus": (0.200, 0.200, 0.100),
    "lateral_ventricle": (0.030, 0.030, 0.080),
    "csf": (0.140, 0.160, 0.120),
    "soft_tissue": (0.090, 0.080, 0.080),
    "marrow": (0.150, 0.200, 0.150),
    "mucosa": (0.100, 0.150, 0.100),
    "skin": (0.120, 0.120, 0.100),
    "bone": (0.200, 0.200, 0.200),
    "air": (0.0, 0.0, 0.0),
}
_USUAL_TEXTURE = (0.045, 0.035, 0.030)
_LESION_TEXTURE = (0.060, 0.090, 0.060)
_BORDER_MM = 0.6  # standard deviation of the softening at every border
_LESION_BORDER_MM = 1.2  # lesions fade into what surrounds them
_VESSEL_WIDTH = 0.28  # of the fields whose common zeros are vessels
_FOLIA = 54  # fissures around the fourth ventricle: 3.5 mm apart at 30 mm from it
_FOLIA_FLUID = 0.35  # share of fluid in the middle of a fissure
_RIM: dict[Contrast, float] = {"t1": -0.06, "t2": 0.10, "flair": 0.30}  # beside the ventricles


def make_signal(
    anatomy: Anatomy,
    signals: Mapping[str, float],
    contrast: Contrast,
    rng: np.random.Generator,
    lesions: NDArray[np.uint8] | None = None,
) -> Field:
    """The signal of an anatomy, `z y x`, about 0 to 1.6, without scanner or noise.

    Args:
        anatomy: the head.
        signals: mean of each tissue and lesion class (`draw_signals`).
        contrast: which image.
        rng: of the texture; another generator is another draw of the same individual.
        lesions: 0, or 1..4 for `LESION_CLASSES`, on the anatomy's grid.
    """
    tissues, size = anatomy.tissues, anatomy.size_zyx
    fields = [smooth_field(rng, size, scale) for scale in _SCALES_MM]
    means = np.array([signals.get(name, 0.0) for name in TISSUE_NAMES], dtype=np.float32)
    signal = means[tissues]
    _paint_soft_tissue(signal, tissues, signals, smooth_field(rng, size, 7.0), fields[2])
    _paint_fluid(signal, tissues, signals, rng)
    _paint_folia(signal, tissues, signals, fields[2])
    signal *= _texture(tissues, fields)
    signal += _ventricle_rim(tissues, contrast, fields[2])
    signal = gaussian_filter(signal, _BORDER_MM, truncate=3.0)
    if lesions is not None:
        signal = _with_lesions(signal, lesions, signals, fields)
    return np.maximum(signal, 0.0, out=signal)


def _texture(tissues: NDArray[np.uint8], fields: list[Field]) -> Field:
    """The factor 1 + texture of every voxel."""
    table = np.array(
        [_TEXTURE.get(name, _USUAL_TEXTURE) for name in TISSUE_NAMES], dtype=np.float32
    )
    factor = np.ones(tissues.shape, dtype=np.float32)
    for amplitudes, field in zip(table.T, fields, strict=True):
        factor += amplitudes[tissues] * field
    return np.maximum(factor, np.float32(0.05), out=factor)


def _paint_soft_tissue(
    signal: Field,
    tissues: NDArray[np.uint8],
    signals: Mapping[str, float],
    layers: Field,
    regions: Field,
) -> None:
    """Fat below the skin; muscle with layers of fat between below that."""
    soft = where(tissues, "soft_tissue")
    head = ~where(tissues, "air", "skin")
    depth = uniform_filter(head.astype(np.float32), 13)[soft]  # 1 far below the skin
    between = np.exp(-((layers[soft] / 0.30) ** 2) / 2)
    below_skin = 1.0 / (1.0 + np.exp((depth - 0.86 + 0.05 * regions[soft]) / 0.03))
    fat = np.clip(np.maximum(between * 0.35, below_skin), 0.0, 1.0)
    signal[soft] = fat * signals["fat"] + (1.0 - fat) * signals["muscle"]


def _paint_fluid(
    signal: Field,
    tissues: NDArray[np.uint8],
    signals: Mapping[str, float],
    rng: np.random.Generator,
) -> None:
    """Vessels and dura in the fluid around the brain: it is no clear water."""
    size = signal.shape
    one, two = (smooth_field(rng, (size[0], size[1], size[2]), 2.6) for _ in range(2))
    fluid = where(tissues, "csf")
    vessel = np.exp(-(one[fluid] ** 2 + two[fluid] ** 2) / (2 * _VESSEL_WIDTH**2))
    skull = where(tissues, "bone", "soft_tissue", "marrow", "sinus").astype(np.float32)
    dura = np.clip(2.0 * gaussian_filter(skull, 1.2, truncate=2.5)[fluid], 0.0, 1.0)
    value = signal[fluid]
    value += vessel * (signals["vessel"] - value)
    signal[fluid] = value + 0.7 * dura * (signals["muscle"] - value)


def _paint_folia(
    signal: Field, tissues: NDArray[np.uint8], signals: Mapping[str, float], regions: Field
) -> None:
    """Fissures of the cerebellum: half planes around an axis from left to right."""
    cortex = where(tissues, "cerebellar_cortex")
    places = np.nonzero(cortex)
    if not places[0].size:
        return
    middle = np.nonzero(where(tissues, "fourth_ventricle", "cerebellar_white_matter"))
    centre = [float(np.mean(axis)) for axis in (middle if middle[0].size else places)]
    up, back, side = (axis - c for axis, c in zip(places, centre, strict=True))
    angle = np.arctan2(up, np.hypot(back - 12.0, 0.6 * side))  # the axis lies before the middle
    fissure = np.clip(np.cos(_FOLIA * angle + 1.5 * regions[cortex]), 0.0, 1.0) ** 3
    value = signal[cortex]
    mixed = value + _FOLIA_FLUID * fissure * (signals["csf"] - value)
    signal[cortex] = mixed.astype(np.float32)


def _ventricle_rim(tissues: NDArray[np.uint8], contrast: Contrast, regions: Field) -> Field:
    """What is added to the tissue right beside the lateral ventricles."""
    ventricle = where(tissues, "lateral_ventricle").astype(np.float32)
    near = gaussian_filter(ventricle, 1.5, truncate=2.5)
    near *= where(tissues, "white_matter", "hyperintensity")
    varied = np.clip(1.0 + 0.5 * regions, 0.2, 2.0) * np.float32(_RIM[contrast])
    return np.asarray(near * varied, dtype=np.float32)


def _with_lesions(
    signal: Field,
    lesions: NDArray[np.uint8],
    signals: Mapping[str, float],
    fields: list[Field],
) -> Field:
    means = np.array([0.0, *(signals[name] for name in LESION_CLASSES)], dtype=np.float32)
    factor = np.ones(signal.shape, dtype=np.float32)
    for amplitude, field in zip(_LESION_TEXTURE, fields, strict=True):
        factor += np.float32(amplitude) * field
    inside = (lesions > 0).astype(np.float32)
    painted = gaussian_filter(means[lesions] * factor, _LESION_BORDER_MM, truncate=2.5)
    weight = gaussian_filter(inside, _LESION_BORDER_MM, truncate=2.5)
    # `painted` is weighted already: outside the lesion it fades as `weight` does
    return np.asarray(signal * (1.0 - weight) + painted, dtype=np.float32)


assert set(_TEXTURE) <= {*TISSUE_NAMES} and set(BRAIN_TISSUES) <= {*TISSUE_NAMES}
