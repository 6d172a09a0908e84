"""The compatibility gate: does an informed slice fit a mask, before anything is computed?

The gate compares, at the height where sampling starts, the outline of the mask with that of the
slice's own mask (`engine.evaluation.outlines`). Here stand its policy and the reading of outlines;
what it finds and does is written into the plan row. Knows no model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from engine.config import FrozenConfig
from engine.evaluation.outlines import Fit, Outline, fit_into, judge_drawn, misfit
from engine.runs.planning.rows import Cases
from engine.runs.record.plan import GateNote, PlanRow, stored_at
from engine.storage.places import Place
from engine.volumes.labels.contour_class import is_organ
from engine.volumes.mask_changes import MaskChange
from engine.volumes.prepared.store import read_prepared_mask

_KEPT_SLICES = 20_000


class GateConfig(FrozenConfig):
    """What the gate does about a slice that does not fit.

    A generated slice exists only when its volume is made. Whatever the policy (but "off"), one that
    does not fit is a finding of the quality gate, whose policy "retry" draws another.

    Attributes:
        policy: "warn" notes it; "redraw" takes another slice (source cross); "edit" scales and
            moves the mask into the slice's outline; "skip" makes no volume; "off" does not look.
        max_outline: disagreement of the outlines, 1 minus intersection over union, that passes.
        max_organs: share of the organs' pixels outside the slice's outline that passes.
        num_draws: slices that "redraw" looks at; when none fits, the best one is kept and noted.
    """

    policy: Literal["warn", "redraw", "edit", "skip", "off"] = "warn"
    max_outline: float = Field(0.35, gt=0.0, le=1.0)
    max_organs: float = Field(0.02, ge=0.0, le=1.0)
    num_draws: int = Field(8, ge=1, le=1000)


ReadOutline = Callable[[str, int], Outline]


class OutlineBook:
    """Outlines of slices, read once and kept as bits."""

    def __init__(self, locate: Callable[[str], Place]) -> None:
        self._locate = locate
        self._kept: OrderedDict[tuple[str, int], tuple[NDArray[np.uint8], ...]] = OrderedDict()
        self._shapes: dict[str, tuple[int, int, float, float, int]] = {}

    def __call__(self, source: str, z: int) -> Outline:
        """The outline of slice `z` of a prepared case.

        Raises:
            StoreError: the case is missing or damaged.
        """
        if (source, z) not in self._kept:
            self._read(source, z)
        height, width, dy, dx, depth = self._shapes[source]
        body, organs = (
            np.unpackbits(bits, count=height * width).reshape(height, width).astype(np.bool_)
            for bits in self._kept[source, z]
        )
        return Outline(body, organs, (dy, dx), depth)

    def _read(self, source: str, z: int) -> None:
        case, mask = read_prepared_mask(self._locate(source))  # images would fill the driver
        _, dy, dx = case.spacing_mm_zyx
        depth, height, width = case.size_zyx
        self._shapes[source] = (height, width, dy, dx, depth)
        for near in range(max(0, z - 1), min(depth, z + 2)):  # draws round to either side
            plane = mask[near]
            organs = is_organ(plane, case.class_names, case.contour)
            self._kept[source, near] = (np.packbits(plane > 0), np.packbits(organs))
        while len(self._kept) > _KEPT_SLICES:
            self._kept.popitem(last=False)


class Gate:
    """Judges plan rows by a policy."""

    def __init__(self, config: GateConfig, read: ReadOutline) -> None:
        self._config, self._read = config, read

    def judged(self, row: PlanRow, cases: Cases) -> PlanRow:
        """The row with the gate's note, and with another slice or a fit where that was decided.

        A generated slice does not exist yet: its row passes unjudged, and `flag_drawn` looks at
        the slice when it is there.

        Args:
            row: as planned.
            cases: from which another informed slice may be drawn.
        """
        if row.informed == "generated" or self._config.policy == "off":
            return row
        note = self._judge(row)
        if self._fits(note):
            return row.model_copy(update={"gate": note})
        policy = self._config.policy
        if policy == "skip":
            return row.model_copy(update={"gate": note.model_copy(update={"verdict": "skipped"})})
        if policy == "edit":
            note = note.model_copy(update={"verdict": "edited"})
            changes = (self._fit(row), *row.changes)
            return row.model_copy(update={"gate": note, "changes": changes})
        if policy == "redraw" and row.informed == "cross":
            return self._redrawn(row, note, cases)
        return row.model_copy(update={"gate": note.model_copy(update={"verdict": "warned"})})

    def _redrawn(self, row: PlanRow, note: GateNote, cases: Cases) -> PlanRow:
        best, best_note = row, note
        for draw in range(1, self._config.num_draws):
            other = cases.redrawn(row, draw)
            found = self._judge(other)
            if found.outline + found.organs < best_note.outline + best_note.organs:
                best, best_note = other, found
            if self._fits(found):
                update = {"verdict": "redrawn", "draws": draw + 1}
                return other.model_copy(update={"gate": found.model_copy(update=update)})
        update = {"verdict": "warned", "draws": self._config.num_draws}
        return best.model_copy(update={"gate": best_note.model_copy(update=update)})

    def _fits(self, note: GateNote) -> bool:
        return note.outline <= self._config.max_outline and note.organs <= self._config.max_organs

    def _outlines(self, row: PlanRow) -> tuple[Outline, Outline]:
        """Of the mask where sampling starts, and of the informed slice."""
        informed = self._read(row.informed_source, row.informed_z)
        height = row.informed_z / max(1, informed.num_slices - 1)
        return self._read(row.mask_source, round(height * (row.num_slices - 1))), informed

    def _judge(self, row: PlanRow) -> GateNote:
        found = misfit(*self._outlines(row))
        return GateNote(verdict="fits", outline=found.outline, organs=found.organs)

    def _fit(self, row: PlanRow) -> MaskChange:
        return as_change(fit_into(*self._outlines(row)))


def gate_of(config: GateConfig, root: Place, data: Place) -> Gate:
    """The compatibility gate of a run.

    Args:
        config: what it does.
        root: the run folder.
        data: folder of prepared cases.
    """
    return Gate(config, OutlineBook(partial(stored_at, root, data)))


def as_change(fit: Fit | None) -> MaskChange:
    """A fit in-plane as a change of the whole mask; none leaves the mask as it is."""
    if fit is None:
        return MaskChange(purpose="fit")
    return MaskChange(
        purpose="fit",
        scale_zyx=(1.0, *fit.scale_yx),
        shift_mm_zyx=(0.0, *fit.shift_mm_yx),
    )


def flag_drawn(
    drawn: NDArray[np.float32], mask: NDArray[np.uint8], contour: str | None, config: GateConfig
) -> tuple[str, ...]:
    """What is wrong with a generated informed slice; empty is nothing.

    Only a mask with a contour can be compared with what is seen in an image.

    Args:
        drawn: `y x` in [-1, 1].
        mask: `y x` classes of the volume's slice at its height.
        contour: name of the mask's class that was added as body or brain, or None.
        config: limits.
    """
    if config.policy == "off" or contour is None:
        return ()
    return judge_drawn(drawn, mask, config.max_outline)
