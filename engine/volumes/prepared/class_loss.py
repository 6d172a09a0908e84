"""The record of what a grid loses of a mask, class by class, and its sentence for a person.

Numbers only: `grid_loss.py` counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pydantic import Field

from engine.config import FrozenConfig

LOW_SHARE = 0.5
"""A class of which less is kept is named."""
_MAX_NOTES = 20


class ClassLoss(FrozenConfig):
    """What became of one class of a mask.

    Attributes:
        voxels: on the scan's grid.
        kept_voxels: of these, how many are still the class after the way to the model's grid and
            back.
        volume_mm3: of `voxels`.
        parts: connected parts (by faces) on the scan's grid; lesions, for most.
        lost_parts: of these, how many have no voxel left.
    """

    voxels: int = Field(ge=0)
    kept_voxels: int = Field(ge=0)
    volume_mm3: float = Field(ge=0)
    parts: int = Field(ge=0)
    lost_parts: int = Field(ge=0)

    @property
    def share(self) -> float:
        """Share of the voxels that is kept, 0..1."""
        return self.kept_voxels / self.voxels if self.voxels else 1.0

    @property
    def is_gone(self) -> bool:
        """Whether nothing of the class is left."""
        return self.voxels > 0 and self.kept_voxels == 0


GridLoss = Mapping[str, ClassLoss]
"""By class name; classes that the mask does not hold are not in it."""


def loss_notes(loss: GridLoss) -> tuple[str, ...]:
    """What a person must know: classes that are gone, or of which less than half is kept."""
    return tuple(
        _note(name, one) for name, one in loss.items() if one.is_gone or one.share < LOW_SHARE
    )


def _note(name: str, loss: ClassLoss) -> str:
    size = f"{loss.voxels} voxels, {loss.volume_mm3:.0f} mm3"
    if loss.is_gone:
        return f"{name} ({size}) is lost on the model's grid"
    return (
        f"{name} ({size}) keeps {loss.share:.0%} on the model's grid, "
        f"{loss.lost_parts} of {loss.parts} parts lost"
    )


def total_loss(losses: Iterable[GridLoss]) -> dict[str, ClassLoss]:
    """The sum over cases, by class name."""
    total: dict[str, ClassLoss] = {}
    for loss in losses:
        for name, one in loss.items():
            before = total.get(name)
            total[name] = one if before is None else _sum(before, one)
    return total


def _sum(a: ClassLoss, b: ClassLoss) -> ClassLoss:
    return ClassLoss(
        voxels=a.voxels + b.voxels,
        kept_voxels=a.kept_voxels + b.kept_voxels,
        volume_mm3=round(a.volume_mm3 + b.volume_mm3, 3),
        parts=a.parts + b.parts,
        lost_parts=a.lost_parts + b.lost_parts,
    )


def describe_loss(losses: Mapping[str, GridLoss]) -> Iterator[str]:
    """Lines for a person: each class over all cases, then the cases that lose much.

    Args:
        losses: by case id.
    """
    for name, one in total_loss(losses.values()).items():
        yield (
            f"on the model's grid: {name} keeps {one.share:.1%} of {one.voxels} voxels; "
            f"{one.lost_parts} of {one.parts} parts have none left"
        )
    notes = [(case_id, note) for case_id, loss in losses.items() for note in loss_notes(loss)]
    for case_id, note in notes[:_MAX_NOTES]:
        yield f"flagged {case_id}: {note}"
    if len(notes) > _MAX_NOTES:
        yield f"... and {len(notes) - _MAX_NOTES} more, in dataset.json"
