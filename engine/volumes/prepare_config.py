"""How cases become prepared cases: the settings, and tuned presets by name.

Knows what settings mean together; reads and computes nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from engine.config import FrozenConfig
from engine.volumes.class_names import name_faults

_MAX_CLASSES = 255


class PrepareConfig(FrozenConfig):
    """How cases become prepared cases.

    Attributes:
        modality: "ct" (HU, a fixed window) or "mr" (a window a volume, from its foreground).
        size_yx: prepared pixels; the foreground's box is centred in them.
        spacing_mm_yx: prepared pixel edge.
        spacing_mm_z: prepared slice distance; None keeps the scan's own.
        clip_hu: CT intensities that become -1 and +1.
        mr_percentiles: of the foreground's intensities, that become -1 and +1.
        label_map: raw label -> class (1..number of names); a class of 0 is background on purpose.
        class_names: names of classes 1, 2, ...; the contour class is added behind them.
        contour: class added where no other is: "body" (found in the image), "brain" (the case's
            brain mask, or everything but the background of a skull-stripped volume), or "none".
        other_labels: raw labels that the map does not name: "refuse" or "background".
        unlabelled_classes: names of classes that this data set has no label for. They keep their
            numbers, so that the data fits the same weights; their voxels are the contour's, or
            background.
        ignore_label: raw label of voxels that nobody annotated, or None.
        ignored_voxels: what is done with a case that has some: "refuse" it, or take them as
            "background".
        lost_classes: what becomes of a case when a class has no voxel left on the prepared grid:
            "flag" names it and goes on, "refuse" leaves the case out. (A case of whose classes
            none is left is always refused.)
        margin_slices: slices kept above and below the foreground.
        intensities: "check" refuses images whose intensities are clearly not the modality's (CT
            that is not in HU, CT given as MR); "allow" takes them as they are.
        rescale: slope and intercept that make HU of CT's stored values; None where they are HU.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    modality: Literal["ct", "mr"] = "ct"
    size_yx: tuple[int, int] = (128, 128)
    spacing_mm_yx: float = Field(3.0, gt=0, le=100)
    spacing_mm_z: float | None = Field(None, gt=0, le=100)
    clip_hu: tuple[float, float] = (-200.0, 300.0)
    mr_percentiles: tuple[float, float] = (0.5, 99.5)
    label_map: dict[int, int] = Field(default_factory=lambda: {1: 1})
    class_names: tuple[str, ...] = ("object",)
    contour: Literal["none", "body", "brain"] = "none"
    other_labels: Literal["refuse", "background"] = "refuse"
    unlabelled_classes: tuple[str, ...] = ()
    ignore_label: int | None = Field(None, ge=1)
    ignored_voxels: Literal["refuse", "background"] = "refuse"
    lost_classes: Literal["flag", "refuse"] = "flag"
    margin_slices: int = Field(0, ge=0, le=1024)
    intensities: Literal["check", "allow"] = "check"
    rescale: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PrepareConfig:
        if not self.clip_hu[0] < self.clip_hu[1]:
            raise ValueError("clip_hu must rise, for example (-200, 300)")
        if not 0 <= self.mr_percentiles[0] < self.mr_percentiles[1] <= 100:
            raise ValueError("mr_percentiles must rise within 0 to 100, for example (0.5, 99.5)")
        if self.rescale is not None and (self.modality != "ct" or self.rescale[0] == 0):
            raise ValueError("rescale makes HU of CT: a slope that is not 0, and an intercept")
        if min(self.size_yx) < 8 or max(self.size_yx) > 2048:
            raise ValueError("size_yx must lie within 8 to 2048 pixels")
        classes = set(self.label_map.values()) - {0}
        names = len(self.class_names)
        if any(raw < 0 for raw in self.label_map) or self.label_map.get(0, 0) != 0:
            raise ValueError("label_map: raw labels are 0 or more, and 0 stays background")
        if max(classes, default=0) > names or min(classes, default=0) < 0:
            raise ValueError(
                f"label_map names class {max(classes)}, but class_names has {names}; "
                "name every class from 1 on"
            )
        self._check_missing(classes)
        if self.ignore_label is not None and self.label_map.get(self.ignore_label, 0):
            raise ValueError("label_map makes ignore_label a class; nobody annotated those voxels")
        if len(self.all_class_names) > _MAX_CLASSES:
            raise ValueError(f"class_names: {_MAX_CLASSES} classes at most, the contour's included")
        faults = name_faults(self.all_class_names)
        if faults:
            raise ValueError(
                "class_names must differ from each other (and from the contour's) and be plain "
                f"names: {faults}; choose another name"
            )
        return self

    def _check_missing(self, classes: set[int]) -> None:
        """Every class has a label, but for those that are said to have none."""
        named = {n for n, name in enumerate(self.class_names, 1) if name in self.unlabelled_classes}
        missing = sorted(set(range(1, len(self.class_names) + 1)) - classes - named)
        if missing:
            raise ValueError(
                f"label_map gives no label to the classes {missing} of class_names; name those "
                "that the data set does not label in unlabelled_classes"
            )
        both = [self.class_names[number - 1] for number in sorted(named & classes)]
        if both or not classes or not set(self.unlabelled_classes) <= set(self.class_names):
            raise ValueError(
                "unlabelled_classes are names of class_names that label_map has no label for; not "
                f"{', '.join(both or self.unlabelled_classes)}"
            )

    @property
    def all_class_names(self) -> tuple[str, ...]:
        """Names of classes 1..N, the contour's last."""
        return self.class_names + (() if self.contour == "none" else (self.contour,))

    @property
    def contour_name(self) -> str | None:
        """Name of the class that preparing adds, or None."""
        return None if self.contour == "none" else self.contour


ABDOMEN_CT = PrepareConfig(
    label_map={5: 1, 2: 2, 3: 2, 1: 3, 7: 4},
    class_names=("liver", "kidney", "spleen", "pancreas"),
    contour="body",
    other_labels="background",
)
BRAIN_FLAIR = PrepareConfig(
    modality="mr",
    spacing_mm_yx=1.5,
    spacing_mm_z=3.0,
    label_map={1: 1, 2: 2, 3: 3, 4: 4},
    class_names=("necrosis", "edema", "non_enhancing_tumor", "enhancing_tumor"),
    contour="brain",
)
PRESETS: dict[str, PrepareConfig] = {
    "abdomen_ct": ABDOMEN_CT,
    "abdomen_ct_wide": ABDOMEN_CT.model_copy(update={"spacing_mm_yx": 4.0}),
    "abdomen_ct_256": ABDOMEN_CT.model_copy(update={"size_yx": (256, 256), "spacing_mm_yx": 2.0}),
    "abdomen_ct_512": ABDOMEN_CT.model_copy(update={"size_yx": (512, 512), "spacing_mm_yx": 1.0}),
    "abdomen_mr": ABDOMEN_CT.model_copy(update={"modality": "mr"}),
    "brain_flair": BRAIN_FLAIR,
    "brain_flair_256": BRAIN_FLAIR.model_copy(
        update={"size_yx": (256, 256), "spacing_mm_yx": 1.0, "spacing_mm_z": None}
    ),
}
