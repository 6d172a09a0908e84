"""An image or mask of any format that is read: its ending decides who reads it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from engine.volumes import itk, nifti
from engine.volumes.labels.structure_files import read_structures, structure_files
from engine.volumes.layouts.naming import ITK_ENDINGS, split_name
from engine.volumes.read_limits import ReadLimits
from engine.volumes.volume import Volume


def read_image(path: Path, limits: ReadLimits | None = None, channel: int | None = None) -> Volume:
    """Read intensities: `z y x` float32, every voxel finite.

    Args:
        path: NIfTI, MetaImage or NRRD.
        limits: what the file may ask of memory.
        channel: of a file that holds several volumes; None takes the only one.

    Raises:
        VolumeError: the file is malformed; names it, what is wrong, and the remedy.
    """
    if _is_itk(path):
        return itk.read_image(path, limits, channel)
    return nifti.read_image(path, limits, channel)


def read_labels(
    path: Path, limits: ReadLimits | None = None, only: Collection[int] | None = None
) -> Volume:
    """Read a label map: `z y x` int32, none negative.

    Args:
        path: of a file, or of a folder with a file for each structure.
        limits: what a file may ask of memory.
        only: labels that are wanted of such a folder; None is all.

    Raises:
        VolumeError: see `read_image`; or its values are no labels.
    """
    if path.is_dir():
        return read_structures(path, limits, only)
    return itk.read_labels(path, limits) if _is_itk(path) else nifti.read_labels(path, limits)


def source_files(path: Path) -> tuple[Path, ...]:
    """All files of a volume: a header may have its voxels beside it, a mask a file a structure.

    Raises:
        VolumeError: such a header cannot be read.
    """
    if path.is_dir():
        return tuple(structure_files(path).values())
    return itk.source_files(path) if _is_itk(path) else (path,)


def _is_itk(path: Path) -> bool:
    parts = split_name(path.name)
    return parts is not None and parts[1] in ITK_ENDINGS
