"""Whether two volumes hold the same places, voxel by voxel. Knows no file format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.volume import Volume

GRID_TOLERANCE = 0.05  # of the smallest voxel edge, measured at the grid's corners


def check_same_grid(image: Volume, mask: Volume) -> None:
    """Refuse an image and a mask whose voxels are not the same places.

    Raises:
        VolumeError: other size, or the affines move a corner by over 5 % of a voxel edge.
    """
    if image.size_zyx != mask.size_zyx:
        raise VolumeError(
            f"{mask.source}: mask of {_by(mask.size_zyx)} voxels, but {image.source} has "
            f"{_by(image.size_zyx)} (z y x); regrid the mask onto it (nearest neighbour)"
        )
    away_mm = shift_mm(image, mask.affine)
    if away_mm > GRID_TOLERANCE * min(mask.spacing_mm_zyx):
        raise VolumeError(
            f"{mask.source}: the affine differs from that of {image.source} by up to "
            f"{away_mm:.3g} mm; give both files the same sform/qform, or regrid the mask"
        )


def shift_mm(volume: Volume, affine: NDArray[np.float64]) -> float:
    """How far another affine moves the corners of the volume's grid, at most."""
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(volume.size_zyx[::-1]) - 1)
    points = np.c_[corners, np.ones(8)].T
    return float(np.linalg.norm(((volume.affine - affine) @ points)[:3], axis=0).max())


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in size)
