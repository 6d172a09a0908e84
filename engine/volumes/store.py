"""Zarr: prepared cases and finished OME-Zarr volumes (caches stand in array_store.py).

A missing shard reads as fill value without an error, so everything read back is checked: prepared
cases against the digests stored with them, finished volumes by the presence of each shard (their
commit record holds the hash of every file). Knows nothing of runs, commits or retries.
"""

from __future__ import annotations

import base64
import colorsys
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from engine.errors import StoreError
from engine.volumes.durable import store_reading
from engine.volumes.nifti import fresh_header
from engine.volumes.places import Place
from engine.volumes.volume import Array, IntensityWindow, NativeGrid, PreparedCase, Volume
from engine.volumes.zarr_places import hash_files, new_group, stored_group, whole_group

PREPARED_FORMAT = "gem3d-prepared/1"
_OME_VERSION = "0.5"
_OWN_ATTRS = ("ome", "affine", "units", "source")
_SLICES_PER_CHUNK = 16
_ZSTD_LEVEL = 3
_GOLDEN = 0.618034  # of the colour circle, from one label to the next


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
        },
        "class_names": list(case.class_names),
        "num_classes": case.num_classes,
        "sha256": {name: _digest(array) for name, array in arrays.items()},
    }
    with whole_group(path) as group:
        for name, array in arrays.items():
            _write_array(group, name, array)
        group.attrs.update(attributes)


def read_prepared(path: Place) -> PreparedCase:
    """Read what `write_prepared` wrote, every array checked against its digest.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    with (
        store_reading(path, "delete it and prepare the case again"),
        stored_group(path) as (group, size_of),
    ):
        attributes: Mapping[str, Any] = dict(group.attrs)
        if attributes.get("format") != PREPARED_FORMAT:
            raise StoreError(f"{path}: not a prepared case; prepare the data set with this version")
        if attributes["case_id"] != path.stem:
            raise StoreError(
                f"{path}: holds the case {attributes['case_id']!r}; prepare the data set again"
            )
        arrays = {name: _read_array(path, group, name, size_of) for name in attributes["sha256"]}
        for name, array in arrays.items():
            if _digest(array) != attributes["sha256"][name]:
                raise StoreError(f"{path}: {name} is damaged; delete it and prepare the case again")
        native, intensity = attributes["native"], attributes["intensity"]
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
        sha256: of each array by name; `image` is missing for a mask without an image.
    """

    case_id: str
    size_zyx: tuple[int, int, int]
    affine: NDArray[np.float64]
    unit: str
    class_names: tuple[str, ...]
    sha256: Mapping[str, str]


def read_prepared_header(path: Place) -> PreparedHeader:
    """Read the attributes of a prepared case.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    with (
        store_reading(path, "delete it and prepare the case again"),
        stored_group(path, metadata_only=True) as (group, _),
    ):
        attributes: Mapping[str, Any] = dict(group.attrs)
        mask = group["mask"]
        if attributes.get("format") != PREPARED_FORMAT or not isinstance(mask, zarr.Array):
            raise StoreError(f"{path}: not a prepared case; prepare the data set with this version")
        z, y, x = mask.shape
        return PreparedHeader(
            case_id=attributes["case_id"],
            size_zyx=(z, y, x),
            affine=np.array(attributes["affine"], dtype=np.float64),
            unit=attributes["intensity"]["unit"],
            class_names=tuple(attributes["class_names"]),
            sha256=dict(attributes["sha256"]),
        )


def list_prepared(folder: Place) -> list[str]:
    """Sorted case ids of the prepared cases in a folder."""
    found = folder.glob("*.zarr") if folder.is_dir() else iter(())
    return sorted(path.stem for path in found if not path.name.startswith("."))


def write_ome_zarr(
    path: Place,
    image: Volume,
    mask: Volume,
    attrs: Mapping[str, Any],
    informed: NDArray[np.float32] | None = None,
) -> dict[str, str]:
    """Write one finished volume as OME-Zarr 0.5: image, `labels/mask`, NIfTI header bytes.

    Args:
        path: where to; must not exist (one writer a path).
        image: `z y x` float32.
        mask: `z y x` uint8 on the same grid.
        attrs: provenance and the like, JSON values; stored beside affine, units and `synthetic`.
        informed: `y x` the generated slice that it was sampled with, on the model's grid.

    Returns:
        What `hash_tree` must find there: sha256 of every object that was sent to an object store;
        nothing on disk, where only reading back tells.

    Raises:
        StoreError: the path exists, the grids differ, an own attribute would be overwritten, or
            the folder cannot be written.
    """
    if path.exists():
        raise StoreError(f"{path}: exists already; a torn volume must be deleted, not overwritten")
    if image.size_zyx != mask.size_zyx:
        raise StoreError(f"{path}: image {image.size_zyx} and mask {mask.size_zyx} differ in size")
    taken = sorted(set(attrs) & set(_OWN_ATTRS))
    if taken:
        raise StoreError(f"{path}: attributes {taken} are the store's own; rename them")
    spacing = [float(s) for s in image.spacing_mm_zyx]
    sent: dict[str, str] = {}
    with new_group(path, sent) as root:
        _write_array(root, "0", image.array, ("z", "y", "x"))
        labels = root.create_group("labels")
        label = labels.create_group("mask")
        _write_array(label, "0", mask.array, ("z", "y", "x"))
        header = np.frombuffer(image.header or fresh_header(image), dtype=np.uint8)
        _write_array(root, "nifti", header)
        if informed is not None:
            _write_array(root, "informed", informed)
        label.attrs["ome"] = {
            "version": _OME_VERSION,
            "multiscales": [_multiscale("mask", spacing)],
            "image-label": {"source": {"image": "../../"}, "colors": _colors(mask.array)},
        }
        labels.attrs["ome"] = {"version": _OME_VERSION, "labels": ["mask"]}
        root.attrs.update(
            {
                "synthetic": True,
                **attrs,
                "affine": image.affine.tolist(),
                "units": {"space": "millimeter", "affine": "voxel x y z -> RAS+ mm"},
                "source": image.source,
                "ome": {"version": _OME_VERSION, "multiscales": [_multiscale("image", spacing)]},
            }
        )
    return sent


def read_ome_zarr(path: Place) -> tuple[Volume, Volume, dict[str, Any]]:
    """Read what `write_ome_zarr` wrote: image, mask, attributes (without `ome`).

    Raises:
        StoreError: missing, or a shard is missing or damaged.
    """
    with (
        store_reading(path, "verify the run, delete the volume and make it again"),
        stored_group(path) as (root, size_of),
    ):
        attributes = dict(root.attrs)
        affine = np.array(attributes["affine"], dtype=np.float64)
        source = str(attributes.get("source", path))
        header = _read_array(path, root, "nifti", size_of).tobytes()
        image = Volume(_read_array(path, root, "0", size_of), affine, source, header)
        mask = Volume(_read_array(path, root, "labels/mask/0", size_of), affine, source, header)
    attributes.pop("ome")
    return image, mask, attributes


def read_informed(path: Place) -> NDArray[np.float32]:
    """The generated informed slice of a finished volume, `y x` in [-1, 1].

    Raises:
        StoreError: it has none, or it is damaged.
    """
    with (
        store_reading(path, "verify the run, delete the volume and make it again"),
        stored_group(path) as (root, size_of),
    ):
        return np.asarray(_read_array(path, root, "informed", size_of), dtype=np.float32)


def hash_tree(path: Place, expected: Mapping[str, str] | None = None) -> dict[str, str]:
    """sha256 of every file under a place, by its relative name with `/`, sorted.

    Args:
        path: of the volume or case.
        expected: what `write_ome_zarr` returned, to be compared with; None or empty is unknown.

    Raises:
        StoreError: the place is missing or holds no file, or other files than expected.
    """
    return hash_files(path, expected or {})


def _colors(labels: Array) -> list[dict[str, Any]]:
    """A colour for every label that is there, far from its neighbours'."""
    colors = []
    for value in (int(v) for v in np.unique(labels) if v):
        rgb = colorsys.hsv_to_rgb(value * _GOLDEN % 1.0, 0.75, 1.0)
        colors.append({"label-value": value, "rgba": [*(round(255 * c) for c in rgb), 255]})
    return colors


def _multiscale(name: str, spacing_mm_zyx: list[float]) -> dict[str, Any]:
    scale = [{"type": "scale", "scale": spacing_mm_zyx}]
    return {
        "name": name,
        "axes": [{"name": a, "type": "space", "unit": "millimeter"} for a in "zyx"],
        "datasets": [{"path": "0", "coordinateTransformations": scale}],
    }


def _write_array(
    group: zarr.Group, name: str, array: Array, dimension_names: tuple[str, ...] | None = None
) -> None:
    """One shard an array, chunks along the first axis, every chunk with its checksum."""
    depth = min(_SLICES_PER_CHUNK if array.ndim > 1 else array.size, array.shape[0])
    rest = array.shape[1:]
    stored = group.create_array(
        name,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(depth, *rest),
        shards=(-(-array.shape[0] // depth) * depth, *rest),
        compressors=[ZstdCodec(level=_ZSTD_LEVEL, checksum=True)],
        fill_value=np.nan if array.dtype.kind == "f" else 0,
        dimension_names=dimension_names,
        config={"write_empty_chunks": True},
    )
    stored[...] = array


def _read_array(
    path: Place, group: zarr.Group, name: str, size_of: Callable[[str], int]
) -> NDArray[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path}: {name} is not an array; make it again")
    shard = "/".join([name, "c", *["0"] * array.ndim])  # the one that `_write_array` makes
    if not size_of(shard):
        raise StoreError(f"{path}: the shard of {name} is missing; delete the folder, make it anew")
    return np.asarray(array[...])


def _digest(array: Array) -> str:
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()
