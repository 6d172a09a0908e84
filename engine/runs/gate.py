"""The compatibility gate: does an informed slice fit a mask, before anything is computed?

The paper's failure case F.2: an informed slice of a small body and a mask of a large one give
organs at the body's edge. The gate compares, at the height where sampling starts, the outline of
the mask with that of the slice's own mask, and asks how many organ pixels lie outside the slice's
outline. What it finds and does is written into the plan row. Knows no model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from engine.config import FrozenConfig
from engine.runs.plan import GateNote, PlanRow
from engine.storage.places import Place
from engine.volumes.labels.contour_class import is_organ
from engine.volumes.mask_changes import MaskChange
from engine.volumes.prepared_store import read_prepared_mask

DARK = -0.9  # of [-1, 1]: background is not brighter
_KEPT_SLICES = 20_000
_MAX_SCALE = 1.5  # of a mask that is made to fit; more would not be the same anatomy


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


@dataclass(frozen=True)
class Outline:
    """One slice of a mask: what is body, and what is organ.

    Attributes:
        body: `y x`, everything that is not background.
        organs: `y x`, classes that are not the contour.
        spacing_mm_yx: pixel edges.
        num_slices: of the case that it is a slice of.
    """

    body: NDArray[np.bool_]
    organs: NDArray[np.bool_]
    spacing_mm_yx: tuple[float, float]
    num_slices: int = 1


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

    def __call__(self, row: PlanRow, redraw: Callable[[int], PlanRow]) -> PlanRow:
        """The row with the gate's note, and with another slice or a fit where that was decided.

        A generated slice does not exist yet: its row passes unjudged, and `judge_drawn` looks at
        the slice when it is there.

        Args:
            row: as planned.
            redraw: the same row with the informed slice of draw 1, 2, ...
        """
        if row.informed == "generated":
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
            return self._redrawn(row, note, redraw)
        return row.model_copy(update={"gate": note.model_copy(update={"verdict": "warned"})})

    def _redrawn(
        self,
        row: PlanRow,
        note: GateNote,
        redraw: Callable[[int], PlanRow],
    ) -> PlanRow:
        best, best_note = row, note
        for draw in range(1, self._config.num_draws):
            other = redraw(draw)
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
        mask, informed = self._outlines(row)
        return GateNote(
            verdict="fits",
            outline=round(outline_disagreement(mask.body, informed.body), 4),
            organs=round(organs_outside(mask.organs, informed.body), 4),
        )

    def _fit(self, row: PlanRow) -> MaskChange:
        mask, informed = self._outlines(row)
        return fit_into(mask, informed)


def judge_drawn(
    drawn: NDArray[np.float32], mask: NDArray[np.uint8], contour: str | None, config: GateConfig
) -> tuple[str, ...]:
    """What is wrong with a generated informed slice; empty is nothing.

    It has no mask, so that its outline is seen in the image; only a mask with a contour can be
    compared with that.

    Args:
        drawn: `y x` in [-1, 1].
        mask: `y x` classes of the volume's slice at its height.
        contour: name of the mask's class that was added as body or brain, or None.
        config: limits.
    """
    if config.policy == "off" or contour is None:
        return ()
    away = outline_disagreement(mask > 0, outline_seen(drawn))
    if away <= config.max_outline:
        return ()
    return (f"generated slice's outline disagrees with the mask's by {away:.2f}",)


def outline_seen(plane: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Body or brain in a slice in [-1, 1]: its largest part above background, without holes."""
    parts, count = ndimage.label(plane > DARK)
    if count == 0:
        return np.zeros(plane.shape, np.bool_)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(parts == largest), np.bool_)


def outline_disagreement(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """1 minus intersection over union: 0 is equal, 1 nothing in common (or one is empty)."""
    union = int((a | b).sum())
    return 0.0 if union == 0 else 1.0 - int((a & b).sum()) / union


def organs_outside(organs: NDArray[np.bool_], body: NDArray[np.bool_]) -> float:
    """Share of organ pixels that lie outside a body; 0 without organs."""
    total = int(organs.sum())
    return 0.0 if total == 0 else int((organs & ~body).sum()) / total


def fit_into(mask: Outline, informed: Outline) -> MaskChange:
    """Scale and shift the whole mask in-plane, so that its outline's box becomes the slice's.

    The mask's grid centre stays where scaling is concerned, as in `mask_augmentation`.
    """
    if not mask.body.any() or not informed.body.any():
        return MaskChange(purpose="fit")
    scales, shifts = [], []
    for axis in (0, 1):
        low, high = _extent(mask.body, axis)
        goal_low, goal_high = _extent(informed.body, axis)
        scale = float(
            np.clip((goal_high - goal_low + 1) / (high - low + 1), 1 / _MAX_SCALE, _MAX_SCALE)
        )
        grid_centre = (mask.body.shape[axis] - 1) / 2
        placed = grid_centre + scale * ((low + high) / 2 - grid_centre)
        scales.append(round(scale, 4))
        shift_mm = ((goal_low + goal_high) / 2 - placed) * mask.spacing_mm_yx[axis]
        shifts.append(round(shift_mm, 3) + 0.0)
    return MaskChange(
        purpose="fit",
        scale_zyx=(1.0, scales[0], scales[1]),
        shift_mm_zyx=(0.0, shifts[0], shifts[1]),
    )


def _extent(body: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    found = np.flatnonzero(body.any(axis=1 - axis))
    return int(found[0]), int(found[-1])
