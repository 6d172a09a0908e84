"""Structures of the head label maps: which number is which tissue.

Numbers below 200 are FreeSurfer's; those from 502 on are SynthSeg's for what lies outside the
brain, distinguished here by their place in the maps. Left and right are one tissue. Knows no image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError

AIR = "air"
BRAIN_TISSUES: dict[str, tuple[int, ...]] = {
    "white_matter": (2, 41),
    "cortex": (3, 42),
    "thalamus": (10, 49),
    "caudate": (11, 50, 26, 58),  # with the accumbens
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "ventral_diencephalon": (28, 60),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "lateral_ventricle": (4, 43, 5, 44),
    "third_ventricle": (14, 72),
    "fourth_ventricle": (15,),
    "choroid_plexus": (136, 137, 163, 164),  # inside the lateral ventricles, in every map
    "cerebellar_white_matter": (7, 46),
    "cerebellar_cortex": (8, 47),
    "brainstem": (16,),
    "optic_chiasm": (85,),
    "perivascular_space": (30, 62),  # in the putamen and the white matter below it
    "hyperintensity": (25, 57),  # of the white matter, around the ventricles
}
OTHER_TISSUES: dict[str, tuple[int, ...]] = {
    AIR: (0,),
    "csf": (24,),  # sulci, cisterns, spinal canal
    "vessel": (502,),
    "eye": (506,),
    "soft_tissue": (507,),  # fat and muscle, not distinguished
    "orbit": (508,),  # muscles behind the eye
    "mucosa": (509,),
    "skin": (511,),
    "spinal_cord": (512,),
    "sinus": (514,),  # veins at the skull
    "bone": (515,),  # compact
    "marrow": (516,),
    "optic_nerve": (530,),
}
TISSUES: dict[str, tuple[int, ...]] = {**BRAIN_TISSUES, **OTHER_TISSUES}
TISSUE_NAMES: tuple[str, ...] = tuple(TISSUES)
_MAX_LABEL = max(max(numbers) for numbers in TISSUES.values())
_UNKNOWN = 255


def tissue_number(name: str) -> int:
    """Position of a tissue in `TISSUE_NAMES`: its number in a tissue map."""
    return TISSUE_NAMES.index(name)


def tissue_map(labels: NDArray[np.integer], source: str) -> NDArray[np.uint8]:
    """Structure numbers -> numbers of `TISSUE_NAMES`, same shape.

    Args:
        labels: structure numbers of a head label map, any axes.
        source: for messages.

    Raises:
        VolumeError: numbers that are no structure of these maps, or no white matter.
    """
    table = np.full(_MAX_LABEL + 2, _UNKNOWN, dtype=np.uint8)
    for number, structures in enumerate(TISSUES.values()):
        table[list(structures)] = number
    tissues = table[np.clip(labels, -1, _MAX_LABEL + 1)]  # -1 is the last entry: unknown
    unknown = np.unique(labels[tissues == _UNKNOWN])
    if unknown.size:
        raise VolumeError(
            f"{source}: labels {unknown[:12].tolist()} are no structures of a head label map; "
            "give maps with FreeSurfer's numbers and SynthSeg's outside the brain"
        )
    if not (tissues == tissue_number("white_matter")).any():
        raise VolumeError(
            f"{source}: no cerebral white matter (labels 2, 41); give a head label map"
        )
    return np.asarray(tissues, dtype=np.uint8)


def where(tissues: NDArray[np.uint8], *names: str) -> NDArray[np.bool_]:
    """Voxels of a tissue map that are one of the named tissues."""
    table = np.zeros(256, dtype=np.bool_)
    table[[tissue_number(name) for name in names]] = True
    return np.asarray(table[tissues])


def parenchyma(tissues: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The brain with its ventricles; neither fluid around it nor the spinal cord."""
    return where(tissues, *BRAIN_TISSUES)
