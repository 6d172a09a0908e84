"""A mask that lies in a file for each structure, as TotalSegmentator publishes and writes them.

`segmentations/liver.nii.gz` is non-zero inside the liver. The files become one label map with the
numbers of TotalSegmentator 2; names that only version 1 has get theirs plus 1000. Knows no case.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from engine.errors import VolumeError
from engine.volumes.geometry.same_grid import check_same_grid
from engine.volumes.labels.declared import DeclaredLabels
from engine.volumes.labels.tables.totalsegmentator import VERSION_1, VERSION_2
from engine.volumes.layouts.naming import list_folder
from engine.volumes.nifti import read_labels
from engine.volumes.read_limits import ReadLimits
from engine.volumes.volume import Volume

_ONLY_IN_1 = 1000
NUMBERS: Mapping[str, int] = {name: number + _ONLY_IN_1 for number, name in VERSION_1.items()} | {
    name: number for number, name in VERSION_2.items()
}


def read_structures(
    folder: Path, limits: ReadLimits | None = None, only: Collection[int] | None = None
) -> Volume:
    """Read the structures of one case into one label map, `z y x` int32.

    Args:
        folder: of the files.
        limits: what each may ask of memory.
        only: numbers of the structures that are wanted; None reads all. A case has over a hundred.

    Raises:
        VolumeError: none is there, two overlap or lie on different grids, or a file is malformed.
    """
    mask: Volume | None = None
    for name, file in structure_files(folder).items():
        if only is not None and NUMBERS[name] not in only and mask is not None:
            continue
        found = read_labels(file, limits)
        if mask is None:
            mask = Volume(np.zeros_like(found.array), found.affine, str(folder), found.header)
        check_same_grid(mask, found)
        if only is None or NUMBERS[name] in only:
            _lay(mask, name, found)
    if mask is None:
        raise VolumeError(
            f"{folder}: no structure that TotalSegmentator names; merge the masks into one label "
            "map, and give the label_map that fits it"
        )
    return mask


def _lay(mask: Volume, name: str, found: Volume) -> None:
    inside = found.array != 0
    taken = mask.array[inside]
    if taken.any():
        other = next(n for n, number in NUMBERS.items() if number == taken.max())
        raise VolumeError(
            f"{found.source}: overlaps {other} in {int((taken != 0).sum())} voxels; a label map "
            "holds one structure a voxel: correct the files, or merge them yourself"
        )
    mask.array[inside] = NUMBERS[name]


def structure_files(folder: Path) -> dict[str, Path]:
    """The files of structures that TotalSegmentator names, by name; others are left out."""
    found = list_folder(folder).files
    return {name: file for name, file in sorted(found.items()) if name in NUMBERS}


def declared_structures(folder: Path) -> DeclaredLabels:
    """What the label map of a folder's structures calls its labels."""
    names = {NUMBERS[name]: name for name in structure_files(folder)}
    return DeclaredLabels(f"{folder} (numbers of TotalSegmentator 2)", dict(sorted(names.items())))
