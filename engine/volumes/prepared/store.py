"""Prepared cases in Zarr: image and mask on the model's grid, and what brings them back.

Everything read back is checked against the digests stored with it: a missing shard reads as fill
value without an error. Knows nothing of how a case is prepared (`prepare.py`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from engine.errors import StoreError
from engine.storage.durable import store_reading
from engine.storage.places import Place
from engine.storage.zarr_groups.groups import (
    StoredFiles,
    read_array,
    stored_group,
    whole_group,
    write_array,
)
from engine.storage.zarr_groups.limits import refuse_large
from engine.volumes.labels.contour_class import stored_contour
from engine.volumes.volume import Array, IntensityWindow, NativeGrid, PreparedCase, spacing_of

PREPARED_FORMAT = "gem3d-prepared/1"
_ATTRIBUTES = (
    "format", "case_id", "affine", "native", "intensity", "class_names", "num_classes", "sha256"
)  # fmt: skip


def write_prepared(path: Place, case: PreparedCase) -> None:
    """Write a prepared case as `{case_id}.zarr`, replacing an older one, whole or not at all.

    Raises:
        StoreError: the folder cannot be written.
    """
    arrays: dict[str, Array] = {"mask": case.mask, "native_mask": case.native_mask}
    if case.image is not None:
        arrays["image"] = case.image
    attributes = {
        "format": PREPARED_FORMAT,
        "case_id": case.case_id,
        "affine": case.affine.tolist(),
        "native": {
            "affine": case.native.affine.tolist(),
            "size_zyx": list(case.native.size_zyx),
            "header": base64.b64encode(case.native.header).decode(),
        },
        "intensity": {
            "low": case.intensity.low,
            "high": case.intensity.high,
            "unit": case.intensity.unit,
            "background": case.intensity.background,
            "masked": case.intensity.masked,
        },
        "class_names": list(case.class_names),
        "contour": case.contour,
        "num_classes": case.num_classes,
        "sha256": {name: array_digest(array) for name, array in arrays.items()},
    }
    with whole_group(path) as group:
        for name, array in arrays.items():
            write_array(group, name, array)
        group.attrs.update(attributes)


def read_prepared(path: Place, planned: str = "") -> PreparedCase:
    """Read what `write_prepared` wrote, every array checked against its digest.

    Args:
        path: of the case.
        planned: `PreparedHeader.digest` that the case must have; empty does not ask.

    Raises:
        StoreError: missing, damaged, of another format, or changed since it was planned.
    """
    with (
        store_reading(path, "delete it and prepare the case again"),
        stored_group(path) as (group, files),
    ):
        attributes = _attributes(path, group)
        refuse_changed(path, _digest_of_all(attributes), planned)
        digests = attributes["sha256"]
        arrays = {name: _read_checked(path, group, name, files, digests) for name in digests}
        native, intensity = attributes["native"], attributes["intensity"]
        if tuple(native["size_zyx"]) != arrays["native_mask"].shape:
            raise StoreError(f"{path}: native_mask has another size; prepare the case again")
        return PreparedCase(
            case_id=attributes["case_id"],
            image=arrays.get("image"),
            mask=arrays["mask"],
            affine=np.array(attributes["affine"], dtype=np.float64),
            native=NativeGrid(
                np.array(native["affine"], dtype=np.float64),
                tuple(native["size_zyx"]),
                base64.b64decode(native["header"]),
            ),
            native_mask=arrays["native_mask"],
            intensity=IntensityWindow(**intensity),
            num_classes=attributes["num_classes"],
            class_names=tuple(attributes["class_names"]),
            contour=stored_contour(attributes),
        )


@dataclass(frozen=True)
class PreparedHeader:
    """What is known of a prepared case without reading its voxels.

    Attributes:
        case_id: of the case.
        size_zyx: voxels.
        affine: of the prepared grid.
        unit: of source intensities, "HU" or "a.u.".
        class_names: of classes 1..num_classes.
        contour: name of the class that preparing added, or None.
        sha256: of each array by name; `image` is missing for a mask without an image.
        digest: sha256 of all metadata, the arrays' digests among it: of everything that a volume
            made from this case depends on (voxels, grids, window, classes, NIfTI header).
    """

    case_id: str
    size_zyx: tuple[int, int, int]
    affine: NDArray[np.float64]
    unit: str
    class_names: tuple[str, ...]
    contour: str | None
    sha256: Mapping[str, str]
    digest: str

    @property
    def spacing_mm_zyx(self) -> tuple[float, float, float]:
        """Voxel edges of the prepared grid in mm along z, y, x."""
        return spacing_of(self.affine)


def read_prepared_header(path: Place) -> PreparedHeader:
    """Read the attributes of a prepared case.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    with (
        store_reading(path, "delete it and prepare the case again"),
        stored_group(path, arrays=()) as (group, _),
    ):
        return _header(path, group)


def read_prepared_mask(path: Place) -> tuple[PreparedHeader, NDArray[np.uint8]]:
    """Read the mask of a prepared case (`z y x`, prepared grid), checked, and not its image.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    with (
        store_reading(path, "delete it and prepare the case again"),
        stored_group(path, arrays=("mask",)) as (group, files),
    ):
        header = _header(path, group)
        return header, _read_checked(path, group, "mask", files, header.sha256)


def refuse_changed(path: Place, found: str, planned: str) -> None:
    """Refuse what is no longer what a run was planned with.

    Raises:
        StoreError: the digests differ; an empty `planned` does not ask.
    """
    if planned and found != planned:
        raise StoreError(
            f"{path}: changed after the run was planned (sha256 {found[:12]}..., planned as "
            f"{planned[:12]}...); put it back as it was, or make a new run with --out"
        )


def list_prepared(folder: Place) -> list[str]:
    """Sorted case ids of the prepared cases in a folder."""
    found = folder.glob("*.zarr") if folder.is_dir() else iter(())
    return sorted(path.stem for path in found if not path.name.startswith("."))


def _attributes(path: Place, group: zarr.Group) -> Mapping[str, Any]:
    """The attributes of a prepared case; all of `_ATTRIBUTES` are there."""
    attributes: Mapping[str, Any] = dict(group.attrs)
    if attributes.get("format") != PREPARED_FORMAT:
        raise StoreError(f"{path}: not a prepared case; prepare the data set with this version")
    if attributes["case_id"] != path.stem:
        raise StoreError(
            f"{path}: holds the case {attributes['case_id']!r}; prepare the data set again"
        )
    for name in _ATTRIBUTES:
        attributes[name]  # a missing one is a KeyError that names it
    return attributes


def _header(path: Place, group: zarr.Group) -> PreparedHeader:
    attributes = _attributes(path, group)
    mask = group["mask"]
    if not isinstance(mask, zarr.Array):
        raise StoreError(f"{path}: not a prepared case; prepare the data set with this version")
    refuse_large(f"{path}: mask", mask)
    z, y, x = mask.shape
    return PreparedHeader(
        case_id=attributes["case_id"],
        size_zyx=(z, y, x),
        affine=np.array(attributes["affine"], dtype=np.float64),
        unit=attributes["intensity"]["unit"],
        class_names=tuple(attributes["class_names"]),
        contour=stored_contour(attributes),
        sha256=dict(attributes["sha256"]),
        digest=_digest_of_all(attributes),
    )


def _read_checked(
    path: Place,
    group: zarr.Group,
    name: str,
    files: StoredFiles,
    digests: Mapping[str, str],
) -> NDArray[Any]:
    array = read_array(path, group, name, files)
    if array_digest(array) != digests[name]:
        raise StoreError(f"{path}: {name} is damaged; delete it and prepare the case again")
    return array


def _digest_of_all(attributes: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()


def array_digest(array: Array) -> str:
    """sha256 of an array's type, shape and voxels, as prepared cases name it."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # no copy of it
    return digest.hexdigest()
