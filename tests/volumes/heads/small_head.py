"""A made-up head label map: nested ellipsoids with the structures that the tests ask for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.volumes.heads import Anatomy, make_anatomy
from engine.volumes.nifti import write_nifti
from engine.volumes.volume import Volume

SIZE_ZYX = (60, 72, 64)
LIA = np.array([[-1.0, 0, 0, 30], [0, 0, 1.0, -35], [0, -1.0, 0, 40], [0, 0, 0, 1]])

# structure: (centre z y x, half axes z y x) in mm of a z y x RAS grid, painted in this order
_PARTS: list[tuple[int, tuple[float, float, float], tuple[float, float, float]]] = [
    (511, (30, 36, 32), (29, 35, 31)),
    (507, (30, 36, 32), (27, 33, 29)),
    (515, (30, 36, 32), (25, 31, 27)),
    (24, (30, 36, 32), (23, 29, 25)),
    (3, (32, 36, 32), (20, 26, 22)),
    (2, (32, 36, 32), (17, 23, 19)),
    (10, (30, 34, 26), (4, 5, 4)),
    (49, (30, 34, 38), (4, 5, 4)),
    (17, (26, 30, 22), (3, 4, 3)),
    (4, (35, 36, 32), (4, 9, 3)),
    (25, (35, 47, 32), (3, 3, 3)),
    (8, (16, 22, 32), (6, 7, 10)),
    (7, (16, 22, 32), (3, 4, 6)),
    (16, (16, 36, 32), (8, 5, 5)),
    (506, (30, 66, 20), (3, 3, 3)),
]


def small_labels(shift_mm: float = 0.0) -> NDArray[np.int32]:
    """Structures, `z y x`, RAS; `shift_mm` moves the ventricle to make another head."""
    z, y, x = np.ogrid[: SIZE_ZYX[0], : SIZE_ZYX[1], : SIZE_ZYX[2]]
    labels = np.zeros(SIZE_ZYX, dtype=np.int32)
    for number, (cz, cy, cx), (az, ay, ax) in _PARTS:
        cy += shift_mm if number == 4 else 0.0
        inside = ((z - cz) / az) ** 2 + ((y - cy) / ay) ** 2 + ((x - cx) / ax) ** 2 < 1
        labels[inside] = number
    right_half = labels[:, :, : SIZE_ZYX[2] // 2]
    right_half[right_half == 2] = 41
    right_half[right_half == 3] = 42
    return labels


def small_volume(shift_mm: float = 0.0) -> Volume:
    """The label map on LIA axes, as the real ones are."""
    ras = small_labels(shift_mm).transpose(2, 1, 0)  # x y z
    lia = np.ascontiguousarray(ras[::-1].transpose(0, 2, 1)[:, ::-1])  # left, inferior, anterior
    return Volume(np.ascontiguousarray(lia.transpose(2, 1, 0)), LIA, "small")


def small_anatomy(name: str = "small") -> Anatomy:
    """The made-up head."""
    return make_anatomy(small_volume(), name)


def write_label_maps(folder: Path, train: int = 2, test: int = 1) -> Path:
    """A folder of label maps with its split."""
    names = [f"head{n:02d}" for n in range(1, train + test + 1)]
    for number, name in enumerate(names):
        split = folder / ("train" if number < train else "test")
        split.mkdir(parents=True, exist_ok=True)
        write_nifti(split / f"{name}.nii.gz", small_volume(shift_mm=2.0 * number))
    return folder
