"""Whether an affine can be that of a scan: finite, not flat, and in millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError

_FLAT = 1e-4  # volume of a voxel, relative to that of a box with its edges
_SHORTEST_MM, _LONGEST_MM = 1e-3, 1e3


def check_affine(path: Path, affine: NDArray[np.float64], remedy: str) -> None:
    """Refuse an affine that no scan has.

    Args:
        path: for the message.
        affine: 4x4, voxel index (x, y, z, 1) -> mm.
        remedy: how a file of this format is corrected.

    Raises:
        VolumeError: NaN or infinity, a singular affine, or edges that cannot be mm.
    """
    if not np.isfinite(affine).all():
        raise VolumeError(f"{path}: the affine holds NaN or infinity; {remedy}")
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    if edges.min() <= 0 or volume < _FLAT * np.prod(edges):
        raise VolumeError(
            f"{path}: the affine is singular (voxel edges {_mm(edges)}, volume {volume:.3g}); "
            f"{remedy}"
        )
    if edges.min() < _SHORTEST_MM or edges.max() > _LONGEST_MM:
        raise VolumeError(f"{path}: voxel edges of {_mm(edges)} cannot be mm; correct the affine")


def _mm(edges: NDArray[np.float64]) -> str:
    return " x ".join(f"{e:.3g}" for e in edges) + " mm"
