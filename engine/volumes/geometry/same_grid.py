"""Whether two volumes hold the same places, voxel by voxel, and if not, which of them is wrong.

Knows no file format.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.geometry.mask_fit import find_placing
from engine.volumes.volume import Volume

GRID_TOLERANCE = 0.05  # of the smallest voxel edge, measured at the grid's corners
_REGRID = "regrid the mask onto it (nearest neighbour)"


def check_same_grid(image: Volume, mask: Volume) -> None:
    """Refuse an image and a mask whose voxels are not the same places.

    The advice follows what the voxels show: where a header lies it says so, and where the header is
    right it never says to copy another over it, which would mirror the mask.

    Args:
        image: intensities; labels where two masks are compared (then nothing is read off voxels).
        mask: labels.

    Raises:
        VolumeError: other size, or the affines move a corner by over 5 % of a voxel edge.
    """
    if image.size_zyx != mask.size_zyx:
        wrong = (
            f"mask of {_by(mask.size_zyx)} voxels, but {image.source} has "
            f"{_by(image.size_zyx)} (z y x)"
        )
        other_order = sorted(image.size_zyx) == sorted(mask.size_zyx)
        advice = _advice(image, mask) if other_order else _REGRID
        raise VolumeError(f"{mask.source}: {wrong}; {advice}")
    away_mm = shift_mm(image, mask.affine)
    if away_mm > GRID_TOLERANCE * min(mask.spacing_mm_zyx):
        raise VolumeError(
            f"{mask.source}: the affine differs from that of {image.source} by up to "
            f"{away_mm:.3g} mm; {_advice(image, mask)}"
        )


def _advice(image: Volume, mask: Volume) -> str:
    placing = find_placing(image, mask) if image.array.dtype.kind == "f" else None
    if placing is None:
        return (
            "look at both in a viewer: where both headers are right, regrid the mask onto it "
            "(nearest neighbour); where one is wrong, correct that one; copying a header over a "
            "right one can mirror the mask"
        )
    if placing.where == "header":
        return (
            "its voxels fit where its header puts them, and not in the order they are stored: the "
            f"header is right, so {_REGRID}; copying the image's header onto it would misplace it"
        )
    if placing.where == "stored":
        return (
            "its voxels fit as they are stored, and not where its header puts them: the header is "
            "wrong, so give it the image's sform and qform, and leave its voxels as they are"
        )
    return (
        f"its voxels fit only {placing.turn}, and neither as stored nor where its header puts "
        "them: turn its voxels so, and give it the image's sform and qform"
    )


def shift_mm(volume: Volume, affine: NDArray[np.float64]) -> float:
    """How far another affine moves the corners of the volume's grid, at most."""
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(volume.size_zyx[::-1]) - 1)
    points = np.c_[corners, np.ones(8)].T
    return float(np.linalg.norm(((volume.affine - affine) @ points)[:3], axis=0).max())


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in size)
