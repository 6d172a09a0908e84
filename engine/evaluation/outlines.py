"""Does an informed slice fit a mask? Outlines of bodies, compared and fitted.

The paper's failure case F.2: an informed slice of a small body and a mask of a large one give
organs at the body's edge. Pure functions on arrays; knows no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_DARK = -0.9  # of [-1, 1]: background is not brighter
_MAX_SCALE = 1.5  # of a mask that is made to fit; more would not be the same anatomy


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


class Misfit(NamedTuple):
    """How far an informed slice is from fitting a mask; 0 is a fit.

    Attributes:
        outline: `outline_disagreement` of the two bodies.
        organs: `organs_outside` the slice's body, of the mask's organs.
    """

    outline: float
    organs: float


class Fit(NamedTuple):
    """What brings a mask's outline onto another: scaled about the grid's centre, then shifted."""

    scale_yx: tuple[float, float]
    shift_mm_yx: tuple[float, float]


def misfit(mask: Outline, informed: Outline) -> Misfit:
    """Compare a mask's slice with the informed slice's own mask, to four digits."""
    return Misfit(
        outline=round(outline_disagreement(mask.body, informed.body), 4),
        organs=round(organs_outside(mask.organs, informed.body), 4),
    )


def outline_disagreement(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """1 minus intersection over union: 0 is equal, 1 nothing in common (or one is empty)."""
    union = int((a | b).sum())
    return 0.0 if union == 0 else 1.0 - int((a & b).sum()) / union


def organs_outside(organs: NDArray[np.bool_], body: NDArray[np.bool_]) -> float:
    """Share of organ pixels that lie outside a body; 0 without organs."""
    total = int(organs.sum())
    return 0.0 if total == 0 else int((organs & ~body).sum()) / total


def outline_seen(plane: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Body or brain in a slice in [-1, 1]: its largest part above background, without holes."""
    parts, count = ndimage.label(plane > _DARK)
    if count == 0:
        return np.zeros(plane.shape, np.bool_)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(parts == largest), np.bool_)


def judge_drawn(
    drawn: NDArray[np.float32], mask: NDArray[np.uint8], max_outline: float
) -> tuple[str, ...]:
    """What is wrong with a generated informed slice, whose outline is seen in the image.

    Args:
        drawn: `y x` in [-1, 1].
        mask: `y x` classes of the volume's slice at its height, with the body as a class.
        max_outline: disagreement of the outlines that passes.

    Returns:
        Each fault in a few words; empty is nothing.
    """
    away = outline_disagreement(mask > 0, outline_seen(drawn))
    if away <= max_outline:
        return ()
    return (f"generated slice's outline disagrees with the mask's by {away:.2f}",)


def fit_into(mask: Outline, informed: Outline) -> Fit | None:
    """Scale and shift in-plane, so that the mask's outline's box becomes the slice's.

    The mask's grid centre stays where scaling is concerned, as in `mask_augmentation`.

    Returns:
        None when either has no body.
    """
    if not mask.body.any() or not informed.body.any():
        return None
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
    return Fit((scales[0], scales[1]), (shifts[0], shifts[1]))


def _extent(body: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    found = np.flatnonzero(body.any(axis=1 - axis))
    return int(found[0]), int(found[-1])
