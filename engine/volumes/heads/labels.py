"""Raw labels of a head cohort, and the three levels of conditioning masks made from them.

A cohort's mask holds the finest level; `level_config` gives the settings with which preparing it
keeps less: the contour alone; the contour, ventricles, cerebellum, brain stem and deep grey matter;
or the tissues. At every level what has no class of its own is the contour's, `brain`. Lesions have
BraTS's classes and come first, as in the brain configurations. Knows no image.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from engine.volumes.heads.structures import TISSUE_NAMES
from engine.volumes.prepare_config import PrepareConfig

Level = Literal["contour", "structures", "tissues"]
LEVELS: tuple[Level, ...] = get_args(Level)

LESION_CLASSES = ("necrosis", "edema", "non_enhancing_tumor", "enhancing_tumor")
FIRST_LESION = 11  # raw label of `LESION_CLASSES[0]`
DEEP_GREY = ("thalamus", "caudate", "putamen", "pallidum", "ventral_diencephalon")
VENTRICLES = ("lateral_ventricle", "third_ventricle", "fourth_ventricle", "choroid_plexus")

# raw label: name in dataset.json, tissues
RAW_LABELS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("cerebral_white_matter", ("white_matter", "optic_chiasm", "perivascular_space")),
    2: ("cerebral_cortex", ("cortex",)),
    3: ("deep_grey_matter", DEEP_GREY),
    4: ("hippocampus_amygdala", ("hippocampus", "amygdala")),
    5: ("ventricles", VENTRICLES),
    6: ("csf", ("csf",)),
    7: ("cerebellar_white_matter", ("cerebellar_white_matter",)),
    8: ("cerebellar_cortex", ("cerebellar_cortex",)),
    9: ("brainstem", ("brainstem",)),
    10: ("white_matter_hyperintensity", ("hyperintensity",)),
}
CSF = 6

# class of each raw label; those without one become the contour's
_CLASSES: dict[Level, dict[str, tuple[int, ...]]] = {
    "contour": {},
    "structures": {
        "ventricles": (5,),
        "cerebellum": (7, 8),
        "brainstem": (9,),
        "deep_grey_matter": (3,),
    },
    "tissues": {name: (raw,) for raw, (name, _) in RAW_LABELS.items() if raw != CSF},
}


def raw_labels(
    tissues: NDArray[np.uint8], brain: NDArray[np.bool_], lesions: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """The mask of a cohort: every voxel of the brain has one label, all others have 0.

    Args:
        tissues: tissue map, `z y x`.
        brain: the brain with the fluid in its sulci, same shape.
        lesions: 0, or 1..4 for `LESION_CLASSES`; same shape.
    """
    table = np.full(256, CSF, dtype=np.uint8)  # skull within the brain's contour, say
    for raw, (_, names) in RAW_LABELS.items():
        table[[TISSUE_NAMES.index(name) for name in names]] = raw
    labels = np.where(brain, table[tissues], 0).astype(np.uint8)
    if lesions is not None:
        inside = (lesions > 0) & brain
        labels[inside] = lesions[inside] + (FIRST_LESION - 1)
    return labels


def label_names(*, lesions: bool) -> dict[str, int]:
    """The `labels` of a cohort's `dataset.json`: name -> raw label."""
    names = {"background": 0, **{name: raw for raw, (name, _) in RAW_LABELS.items()}}
    if lesions:
        names |= {name: FIRST_LESION + n for n, name in enumerate(LESION_CLASSES)}
    return names


def level_config(level: Level, *, lesions: bool = False) -> PrepareConfig:
    """How a cohort is prepared with one of the levels: 128 px of 1.6 mm, slices 3 mm apart.

    >>> level_config("structures").all_class_names
    ('ventricles', 'cerebellum', 'brainstem', 'deep_grey_matter', 'brain')
    >>> level_config("contour").all_class_names
    ('brain',)

    Args:
        level: what the masks hold.
        lesions: whether the cohort has lesions; their classes come first.
    """
    groups: dict[str, tuple[int, ...]] = {}
    if lesions:
        groups |= {name: (FIRST_LESION + n,) for n, name in enumerate(LESION_CLASSES)}
    groups |= _CLASSES[level]
    contour: Literal["brain", "none"] = "brain"
    if not groups:  # a mask needs a class: the whole brain is the data set's own
        groups, contour = {"brain": tuple(RAW_LABELS)}, "none"
    label_map = dict.fromkeys(label_names(lesions=lesions).values(), 0)
    for number, raws in enumerate(groups.values(), start=1):
        label_map |= dict.fromkeys(raws, number)
    return PrepareConfig(
        modality="mr",
        spacing_mm_yx=1.6,
        spacing_mm_z=3.0,
        label_map={raw: number for raw, number in label_map.items() if raw},
        class_names=tuple(groups),
        contour=contour,
    )


HEAD_PRESETS: dict[str, PrepareConfig] = {
    **{f"head_{level}": level_config(level) for level in LEVELS},
    **{f"head_{level}_lesions": level_config(level, lesions=True) for level in LEVELS},
}
