"""The type in which a volume's intensities are kept. Knows no store."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from engine.volumes.volume import IntensityWindow, Volume

Stored = Literal["float32", "int16"]
_NARROWEST = 1000.0  # units of a window; half a unit is then half a thousandth of it


def as_stored(volume: Volume, intensity: IntensityWindow, stored: Stored) -> Volume:
    """A volume with its intensities in the type that they are kept in.

    `int16` rounds to whole units. Units that are not HU may be of any size: where a window is less
    than 1,000 of them wide, or does not fit the type, intensities stay float32.

    Args:
        volume: float32, in source units.
        intensity: its window.
        stored: the setting.
    """
    if stored == "float32":
        return volume
    ends = np.array([intensity.low, intensity.high, intensity.background])
    limits = np.iinfo(np.int16)
    is_fine = intensity.unit == "HU" or intensity.high - intensity.low >= _NARROWEST
    if not is_fine or ends.min() < limits.min or ends.max() > limits.max:
        return volume
    return replace(volume, array=np.rint(volume.array).astype(np.int16))
