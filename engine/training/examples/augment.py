"""Copies of a case, moved in-plane: planned before encoding, so that they can be cached.

Intensities stay as they are. A copy's parameters follow from the seed, the case and the copy's
number, and are recorded with its latents.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.training.examples.randomness import generator_for

MAX_ROTATION_DEG = 8.0
MAX_SHIFT = 0.06


@dataclass(frozen=True)
class InPlaneMove:
    """One rigid move of every slice of a case.

    Attributes:
        flip: mirror left and right.
        rotation_deg: counter-clockwise.
        shift_yx: of the content, as fractions of the edge.
    """

    flip: bool = False
    rotation_deg: float = 0.0
    shift_yx: tuple[float, float] = (0.0, 0.0)

    def as_record(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "shift_yx": list(self.shift_yx)}


def plan_move(seed: int, case_id: str, copy: int, *, flips: bool = True) -> InPlaneMove:
    """The move of copy number `copy`, mirrored or not; copy 0 is the case itself."""
    if copy == 0:
        return InPlaneMove()
    draw = torch.rand(4, generator=generator_for(seed, "augment", case_id, copy)).tolist()
    turn, down, right = (round(2.0 * value - 1.0, 4) for value in draw[1:])
    return InPlaneMove(
        flip=flips and draw[0] < 0.5,
        rotation_deg=turn * MAX_ROTATION_DEG,
        shift_yx=(down * MAX_SHIFT, right * MAX_SHIFT),
    )


def case_of(name: str) -> str:
    """The case that a copy was made from."""
    return name.split("+", 1)[0]


def copy_name(case_id: str, copy: int) -> str:
    """Name of a copy, unique in a cache."""
    return case_id if copy == 0 else f"{case_id}+{copy}"


def apply_move(planes: Tensor, move: InPlaneMove, *, labels: bool) -> Tensor:
    """Move all slices alike.

    Args:
        planes: `z y x`; images in [-1, 1] (what comes in from outside is -1), or integer classes.
        move: what to do.
        labels: nearest neighbour and background 0 instead of linear interpolation.

    Returns:
        As `planes`; the same tensor for the move that does nothing.
    """
    if move == InPlaneMove():
        return planes
    angle = math.radians(move.rotation_deg)
    cos, sin, sign = math.cos(angle), math.sin(angle), -1.0 if move.flip else 1.0
    down, right = (2.0 * s for s in move.shift_yx)
    # where each target position (x, y) comes from: back by the shift, turned, then mirrored
    x_row = [sign * cos, sign * sin, -sign * (cos * right + sin * down)]
    y_row = [-sin, cos, sin * right - cos * down]
    theta = torch.tensor([[x_row, y_row]])
    background = 0.0 if labels else -1.0
    values = planes.float()[None] - background
    grid = F.affine_grid(theta, [1, 1, *planes.shape[-2:]], align_corners=False)
    mode = "nearest" if labels else "bilinear"
    moved = F.grid_sample(values, grid, mode=mode, padding_mode="zeros", align_corners=False)
    return (moved[0] + background).to(planes.dtype)
