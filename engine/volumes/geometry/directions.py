"""Anatomical directions of a grid's axes, as OME-NGFF's RFC-4 words them.

https://ngff.openmicroscopy.org/rfc/4: each space axis may say from where to where its index runs.
An oblique grid gets the closest directions; its affine says the rest. Pure functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.volumes.geometry.grids import Orientation

_TOWARDS = (
    ("left-to-right", "right-to-left"),
    ("posterior-to-anterior", "anterior-to-posterior"),
    ("inferior-to-superior", "superior-to-inferior"),
)
"""Of world axis x, y, z (RAS+): along it, and against it."""


def axis_directions(affine: NDArray[np.float64]) -> tuple[str, str, str]:
    """Where the array axes z, y, x run.

    Args:
        affine: 4x4, voxel index (x, y, z, 1) -> RAS+ mm; not singular.

    >>> axis_directions(np.diag([-1.0, -1.0, 3.0, 1.0]))  # LPS
    ('inferior-to-superior', 'anterior-to-posterior', 'right-to-left')
    """
    orientation = Orientation.closest(affine, (1, 1, 1))
    of_xyz = [""] * 3
    for world, (axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        of_xyz[axis] = _TOWARDS[world][flip]
    return of_xyz[2], of_xyz[1], of_xyz[0]


def ome_axes(affine: NDArray[np.float64] | None) -> list[dict[str, Any]]:
    """The axes z, y, x of OME-Zarr 0.5, with RFC-4's orientation.

    Args:
        affine: of the grid; None leaves the orientation out, as volumes of early versions do.
    """
    axes: list[dict[str, Any]] = [
        {"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"
    ]
    if affine is not None:
        for axis, value in zip(axes, axis_directions(affine), strict=True):
            axis["orientation"] = {"type": "anatomical", "value": value}
    return axes
