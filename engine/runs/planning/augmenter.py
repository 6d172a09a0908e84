"""The mask augmentation of plan rows: drawn by hash from the row's seed, and nothing else."""

from __future__ import annotations

from engine.runs.record.plan import PlanRow, stored_at
from engine.storage.places import Place
from engine.volumes.mask_changes import (
    ABDOMEN,
    BRAIN,
    MaskChange,
    Triple,
    draw_change,
    way_to_centre,
)
from engine.volumes.prepared.manifest import PreparedManifest
from engine.volumes.prepared.store import read_prepared
from engine.volumes.volume import PreparedCase


class Augmenter:
    """Draws the mask augmentation of each row, by the kind of data: brain or abdomen.

    Rows of one case follow each other in a plan, so the last case read is kept.
    """

    def __init__(self, root: Place, data: Place, manifest: PreparedManifest) -> None:
        self._root, self._data = root, data
        self._ranges = BRAIN if manifest.config.contour == "brain" else ABDOMEN
        contour = manifest.config.contour != "none"
        self._lesions = tuple(range(1, len(manifest.class_names) + (0 if contour else 1)))
        self._last: tuple[str, PreparedCase, Triple | None] | None = None

    def augmented(self, row: PlanRow) -> PlanRow:
        """The row with its change; a mask without lesions stays as it is."""
        return row.model_copy(update={"changes": (self._change(row),)})

    def _change(self, row: PlanRow) -> MaskChange:
        case, towards = self._case(row.mask_source)
        edge_mm = case.spacing_mm_zyx[2] * case.mask.shape[2]
        classes = tuple(c for c in self._lesions if (case.mask == c).any())
        if self._ranges.target == "lesions" and not classes:
            return MaskChange(purpose="augmentation")
        return draw_change(self._ranges, row.seed, row.sample_id, classes, edge_mm, towards)

    def _case(self, source: str) -> tuple[PreparedCase, Triple | None]:
        if self._last is None or self._last[0] != source:
            case = read_prepared(stored_at(self._root, self._data, source))
            towards = way_to_centre(case.mask, self._lesions, case.spacing_mm_zyx)
            self._last = (source, case, towards)
        return self._last[1], self._last[2]
