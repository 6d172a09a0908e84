"""Where an export puts what: the names of its files, and nnU-Net's description of them.

Knows no run folder and writes no volume.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.storage.files import put
from engine.volumes.labels.exported import ExportedLabels

ExportLayout = Literal["nifti", "nnunet"]
ExportMasks = Literal["drawn", "model"]
DESCRIPTION_NAME = "dataset.json"


@dataclass(frozen=True)
class ExportTarget:
    """Where and how volumes are written.

    Attributes:
        out: the export's folder.
        layout: see `ExportJob`.
        drop_contour: whether masks lose their body or brain contour.
        test: samples whose masks are of their data set's test split.
        masks: see `ExportJob`.
    """

    out: Path
    layout: ExportLayout
    drop_contour: bool
    test: frozenset[str] = frozenset()
    masks: ExportMasks = "drawn"

    @property
    def mask_options(self) -> tuple[str, ...]:
        """What else decides the bytes of a mask; nothing for the default, as early versions had."""
        return () if self.masks == "drawn" else (self.masks,)

    def image(self, name: str) -> Path:
        """The image of a sample."""
        if self.layout == "nnunet":
            return self.out / f"images{self._tail(name)}" / f"{name}_0000.nii.gz"
        return self.out / "images" / f"{name}.nii.gz"

    def mask(self, name: str) -> Path:
        """The mask of a sample."""
        folder = f"labels{self._tail(name)}" if self.layout == "nnunet" else "labels"
        return self.out / folder / f"{name}.nii.gz"

    def _tail(self, name: str) -> str:
        return "Ts" if name in self.test else "Tr"

    def files(self, name: str) -> tuple[str, ...]:
        """The files of a sample, relative to the export's folder."""
        both = (self.image(name), self.mask(name))
        return tuple(path.relative_to(self.out).as_posix() for path in both)


def describe(
    target: ExportTarget,
    labels: ExportedLabels,
    unit: str,
    names: Sequence[str],
    notes: Collection[str] = (),
) -> None:
    """Write nnU-Net v2's `dataset.json`; one that says the same already is kept.

    Args:
        target: where to.
        labels: names and numbers of the classes.
        unit: of intensities; the channel's name chooses nnU-Net's normalization.
        names: the exported samples. nnU-Net refuses a data set whose number of images in
            `imagesTr` is not `numTraining`.
        notes: what the volumes say of their intensities; shown when all say the same.
    """
    remarks = [note for note in notes if note and len(notes) == 1]
    remarks += ["masks as the model saw them"] if target.masks == "model" else []
    description = {
        "channel_names": {"0": "CT" if unit == "HU" else "MR"},
        "labels": labels.description(),
        "numTraining": sum(target.image(name).parent.name == "imagesTr" for name in names),
        "file_ending": ".nii.gz",
        "description": "; ".join(["synthetic, not for diagnosis", *remarks]),
    }
    text, path = json.dumps(description, indent=2) + "\n", target.out / DESCRIPTION_NAME
    if not (path.is_file() and path.read_bytes() == text.encode()):
        put(path, text)
