"""Signal of each tissue in T1-, T2- and FLAIR-like images, and how much individuals differ.

The numbers are relative: T1's white matter is 1. They are chosen after what such images look like
at 1.5 and 3 T, not derived from relaxation times: an enhancing tumour is distinguished from its
surroundings in none of the three as clearly as after a contrast agent. Knows no image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from engine.volumes.heads.labels import LESION_CLASSES
from engine.volumes.heads.structures import BRAIN_TISSUES

Contrast = Literal["t1", "t2", "flair"]
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)

_SIGNALS: dict[str, tuple[float, float, float]] = {  # T1, T2, FLAIR
    "white_matter": (1.00, 0.47, 0.72),
    "cortex": (0.66, 0.66, 0.86),
    "thalamus": (0.80, 0.54, 0.79),
    "caudate": (0.70, 0.61, 0.84),
    "putamen": (0.74, 0.57, 0.80),
    "pallidum": (0.89, 0.41, 0.66),
    "ventral_diencephalon": (0.86, 0.51, 0.78),
    "hippocampus": (0.67, 0.68, 0.90),
    "amygdala": (0.66, 0.67, 0.90),
    "lateral_ventricle": (0.19, 1.55, 0.09),
    "third_ventricle": (0.22, 1.45, 0.14),
    "fourth_ventricle": (0.22, 1.40, 0.24),  # pulsation brings signal back in FLAIR
    "choroid_plexus": (0.36, 1.25, 0.50),
    "cerebellar_white_matter": (0.96, 0.48, 0.74),
    "cerebellar_cortex": (0.64, 0.65, 0.82),
    "brainstem": (0.90, 0.50, 0.76),
    "optic_chiasm": (0.86, 0.52, 0.76),
    "perivascular_space": (0.45, 1.00, 0.48),
    "hyperintensity": (0.74, 0.86, 1.22),
    "air": (0.01, 0.01, 0.01),
    "csf": (0.22, 1.42, 0.11),
    "vessel": (0.36, 0.14, 0.22),
    "eye": (0.20, 1.50, 0.20),
    "fat": (1.30, 0.95, 0.88),
    "muscle": (0.52, 0.24, 0.40),
    "orbit": (0.62, 0.40, 0.52),
    "mucosa": (0.62, 1.00, 0.86),
    "skin": (0.72, 0.42, 0.55),
    "spinal_cord": (0.90, 0.50, 0.74),
    "sinus": (0.40, 0.18, 0.30),
    "bone": (0.08, 0.05, 0.06),
    "marrow": (0.95, 0.52, 0.46),
    "optic_nerve": (0.78, 0.52, 0.66),
    "necrosis": (0.38, 1.32, 0.52),
    "edema": (0.72, 1.02, 1.24),
    "non_enhancing_tumor": (0.64, 0.94, 1.12),
    "enhancing_tumor": (0.60, 0.86, 1.06),
}
_FLUIDS = ("lateral_ventricle", "third_ventricle", "fourth_ventricle", "csf")
_SPREAD_BRAIN = 0.025  # standard deviation between individuals, of the tissue's own signal
_SPREAD_FLUID = 0.08
_SPREAD_LESION = 0.08
_SPREAD_OTHER = 0.10
_GREY_WHITE = (0.75, 1.15)  # of the table's difference between grey and white matter


def table_signals(contrast: Contrast) -> dict[str, float]:
    """Signal of each tissue in the middle of the population."""
    column = CONTRASTS.index(contrast)
    return {name: values[column] for name, values in _SIGNALS.items()}


def draw_signals(contrast: Contrast, rng: np.random.Generator) -> dict[str, float]:
    """Signal of each tissue of one individual.

    Grey and white matter come closer to each other in some (age, field strength), and every
    tissue varies by itself. The same generator gives the same individual at every contrast.
    """
    signals = table_signals(contrast)
    share = rng.uniform(*_GREY_WHITE)
    middle = (signals["white_matter"] + signals["cortex"]) / 2
    drawn = {}
    for name, signal in signals.items():
        if name in BRAIN_TISSUES and name not in _FLUIDS:
            signal = _drawn_together(signal, middle, share, name)
        drawn[name] = signal * (1.0 + _spread(name) * rng.standard_normal())
    return drawn


def _drawn_together(signal: float, middle: float, share: float, name: str) -> float:
    """Closer to the middle of grey and white matter, but for what differs for other reasons."""
    if name in ("choroid_plexus", "perivascular_space", "hyperintensity"):
        return signal
    return middle + share * (signal - middle)


def _spread(name: str) -> float:
    kinds: Mapping[float, tuple[str, ...]] = {
        _SPREAD_FLUID: _FLUIDS,
        _SPREAD_LESION: LESION_CLASSES,
        _SPREAD_BRAIN: tuple(BRAIN_TISSUES),
    }
    return next((spread for spread, names in kinds.items() if name in names), _SPREAD_OTHER)
