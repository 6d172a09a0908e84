"""A head label map as an anatomy: tissues and brain on the closest RAS+ axes.

First stop of a head cohort. Maps come as NIfTI, `FOLDER/train/*.nii.gz` and
`FOLDER/test/*.nii.gz`: the folders are the split. Knows no intensities.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.errors import LayoutError, VolumeError
from engine.volumes.geometry.grids import Orientation
from engine.volumes.heads.structures import parenchyma, tissue_map
from engine.volumes.layouts.cases import Split, check_case_id
from engine.volumes.nifti import read_labels
from engine.volumes.volume import Volume

_SPLITS: tuple[Split, ...] = ("train", "test")
_EDGE_MM = (0.5, 1.5)  # voxels that the appearance model is made for
_SULCUS_MM = 6.0  # half of the widest sulcus that belongs to the brain's contour
_RIM_MM = 1.0  # fluid that skull stripping leaves on the surface


@dataclass(frozen=True)
class LabelMapFile:
    """One map of a folder.

    Attributes:
        name: of the anatomy: the file's, without its ending.
        path: of the file.
        split: the subfolder it lies in.
    """

    name: str
    path: Path
    split: Split


@dataclass(frozen=True)
class Anatomy:
    """One head, `z y x` on the closest RAS+ axes.

    Attributes:
        name: of the label map.
        tissues: numbers of `structures.TISSUE_NAMES`, uint8.
        brain: the brain with ventricles, sulci and a rim of fluid: what skull stripping keeps.
        affine: 4x4 float64, voxel index (x, y, z, 1) -> RAS+ mm.
    """

    name: str
    tissues: NDArray[np.uint8]
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]

    @property
    def size_zyx(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        z, y, x = self.tissues.shape
        return (int(z), int(y), int(x))


def list_label_maps(folder: Path) -> list[LabelMapFile]:
    """The maps of a folder, training heads first, each part sorted by name.

    Raises:
        LayoutError: no such folder, no maps in it, or a name used twice.
    """
    if not folder.is_dir():
        raise LayoutError(f"{folder}: no such folder; give the folder of head label maps")
    found = [
        LabelMapFile(check_case_id(path.name.removesuffix(".nii.gz"), path), path, split)
        for split in _SPLITS
        for path in sorted((folder / split).glob("[!.]*.nii.gz"))
    ]
    if not found:
        raise LayoutError(f"{folder}: no label maps; put them into train/ and test/ as .nii.gz")
    names = [file.name for file in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LayoutError(f"{folder}: {', '.join(twice)} in train and in test; keep one of each")
    return found


def read_anatomy(file: LabelMapFile) -> Anatomy:
    """Read one label map.

    Raises:
        VolumeError: no head label map of about 1 mm; says why.
    """
    return make_anatomy(read_labels(file.path), file.name)


def make_anatomy(labels: Volume, name: str) -> Anatomy:
    """An anatomy from structure numbers on any axes.

    Raises:
        VolumeError: unknown structures, or voxels that are not about 1 mm.
    """
    low, high = _EDGE_MM
    if not all(low <= edge <= high for edge in labels.spacing_mm_zyx):
        edges = " x ".join(f"{edge:g}" for edge in labels.spacing_mm_zyx)
        raise VolumeError(
            f"{labels.source}: voxels of {edges} mm (z y x); give label maps of about 1 mm"
        )
    orientation = Orientation.closest(labels.affine, labels.size_zyx)
    tissues = np.ascontiguousarray(
        orientation.to_canonical(tissue_map(labels.array, labels.source))
    )
    return Anatomy(name, tissues, _brain(tissues), orientation.canonical_affine(labels.affine))


def _brain(tissues: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Parenchyma, closed over its sulci, with a thin rim; holes belong to it."""
    inner = parenchyma(tissues)
    box = ndimage.find_objects(inner.astype(np.uint8))[0]
    margin = int(_SULCUS_MM) + 2
    inner = np.pad(inner[box], margin)
    near = ndimage.distance_transform_edt(~inner) <= _SULCUS_MM
    closed = ndimage.distance_transform_edt(near) > _SULCUS_MM
    rim = ndimage.distance_transform_edt(~(closed | inner)) <= _RIM_MM
    filled = ndimage.binary_fill_holes(rim)
    brain = np.zeros(tissues.shape, dtype=np.bool_)
    return _put_back(brain, filled, box, margin)


def _put_back(
    brain: NDArray[np.bool_],
    padded: NDArray[np.bool_],
    box: tuple[slice, ...],
    margin: int,
) -> NDArray[np.bool_]:
    """Write a padded box into the whole; what sticks out over the volume's faces is lost."""
    target, source = [], []
    for part, size, padded_size in zip(box, brain.shape, padded.shape, strict=True):
        start = part.start - margin
        first, last = max(start, 0), min(start + padded_size, size)
        target.append(slice(first, last))
        source.append(slice(first - start, last - start))
    brain[tuple(target)] = padded[tuple(source)]
    return brain
