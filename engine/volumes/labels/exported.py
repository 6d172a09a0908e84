"""Which number each class has in an export, for its masks and its `dataset.json` alike.

Exports number the classes as the run does, 1, 2, ..., and `dataset.json` says their names. The raw
labels of the data set that the masks came from do not come back. A dropped contour leaves no gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import RunError
from engine.volumes.class_names import name_faults
from engine.volumes.labels.contour_class import stored_contour


@dataclass(frozen=True)
class ExportedLabels:
    """Names and numbers of an export's classes.

    Attributes:
        names: of the exported classes 1, 2, ...
        table: exported number of every class number of the run, from 0 on; uint8.
    """

    names: tuple[str, ...]
    table: tuple[int, ...]

    def of(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask with the run's class numbers -> with the export's, on the same grid."""
        if mask.size and int(mask.max()) >= len(self.table):
            raise RunError(
                f"the mask holds class {int(mask.max())}, of {len(self.table) - 1}; verify the run"
            )
        return np.array(self.table, dtype=np.uint8)[mask]

    def description(self) -> dict[str, int]:
        """`labels` of nnU-Net v2's `dataset.json`."""
        return {"background": 0, **{name: n for n, name in enumerate(self.names, start=1)}}


def exported_labels(attributes: Mapping[str, Any], drop_contour: bool) -> ExportedLabels:
    """The numbering of one volume's export.

    Args:
        attributes: of the volume, with `class_names` and `contour`.
        drop_contour: whether the contour becomes background.

    Raises:
        RunError: names that a reader of the export would take for something else.
        StoreError: the attributes contradict each other.
    """
    names: Sequence[str] = attributes["class_names"]
    faults = name_faults(names)
    if faults:
        raise RunError(f"the classes {', '.join(names)} cannot be exported: {faults}; rename them")
    dropped = stored_contour(attributes) if drop_contour else None
    kept = [name for name in names if name != dropped]
    table = [0] + [0 if name == dropped else kept.index(name) + 1 for name in names]
    return ExportedLabels(tuple(kept), tuple(table))
