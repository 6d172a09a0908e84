"""Finished volumes as OME-Zarr (prepared cases: prepared_store.py, caches: array_store.py).

A missing shard reads as fill value without an error, so the presence of each is checked; the
commit record holds the hash of every file. Knows nothing of runs, commits or retries.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import StoreError
from engine.storage.durable import store_reading
from engine.storage.places import Place
from engine.storage.zarr_groups.groups import (
    hash_files,
    new_group,
    read_array,
    stored_group,
    write_array,
)
from engine.volumes.geometry.directions import ome_axes
from engine.volumes.nifti import fresh_header
from engine.volumes.volume import Array, Volume

_OME_VERSION = "0.5"
MASK, MODEL_MASK = "mask", "mask_model"
"""Labels of a volume: the mask as drawn, and as the model saw it (where the two differ)."""
_OWN_ATTRS = ("ome", "affine", "units", "source")
_GOLDEN = 0.618034  # of the colour circle, from one label to the next


def write_ome_zarr(
    path: Place,
    image: Volume,
    mask: Volume,
    attrs: Mapping[str, Any],
    informed: NDArray[np.float32] | None = None,
    model_mask: NDArray[np.uint8] | None = None,
) -> dict[str, str]:
    """Write one finished volume as OME-Zarr 0.5: image, `labels/mask`, NIfTI header bytes.

    Args:
        path: where to; must not exist (one writer a path).
        image: `z y x` float32.
        mask: `z y x` uint8 on the same grid.
        attrs: provenance and the like, JSON values; stored beside affine, units and `synthetic`.
        informed: `y x` the generated slice that it was sampled with, on the model's grid.
        model_mask: the mask as the model saw it, on the image's grid; becomes `labels/mask_model`.
            None: there is none but `mask`.

    Returns:
        What `hash_tree` must find there: sha256 of every object that was sent to an object store;
        nothing on disk, where only reading back shows it.

    Raises:
        StoreError: the path exists, the grids differ, an own attribute would be overwritten, or
            the folder cannot be written.
    """
    masks = {MASK: mask.array} | ({} if model_mask is None else {MODEL_MASK: model_mask})
    _refuse_unfit(path, image, masks.values(), attrs)
    spacing = [float(s) for s in image.spacing_mm_zyx]
    sent: dict[str, str] = {}
    with new_group(path, sent) as root:
        write_array(root, "0", image.array, ("z", "y", "x"))
        labels = root.create_group("labels")
        header = np.frombuffer(image.header or fresh_header(image), dtype=np.uint8)
        write_array(root, "nifti", header)
        if informed is not None:
            write_array(root, "informed", informed)
        for name, array in masks.items():
            label = labels.create_group(name)
            write_array(label, "0", array, ("z", "y", "x"))
            label.attrs["ome"] = {
                "version": _OME_VERSION,
                "multiscales": [_multiscale(name, image.affine, spacing)],
                "image-label": {"source": {"image": "../../"}, "colors": _colors(array)},
            }
        labels.attrs["ome"] = {"version": _OME_VERSION, "labels": list(masks)}
        root.attrs.update({"synthetic": True, **attrs, **_own_attributes(image, spacing)})
    return sent


def _refuse_unfit(
    path: Place, image: Volume, masks: Iterable[NDArray[np.uint8]], attrs: Mapping[str, Any]
) -> None:
    if path.exists():
        raise StoreError(f"{path}: exists already; a torn volume must be deleted, not overwritten")
    for array in masks:
        if image.size_zyx != array.shape:
            raise StoreError(
                f"{path}: image {image.size_zyx} and mask {array.shape} differ in size"
            )
    taken = sorted(set(attrs) & set(_OWN_ATTRS))
    if taken:
        raise StoreError(f"{path}: attributes {taken} are the store's own; rename them")


def _own_attributes(image: Volume, spacing: list[float]) -> dict[str, Any]:
    return {
        "affine": image.affine.tolist(),
        "units": {"space": "millimeter", "affine": "voxel x y z -> RAS+ mm"},
        "source": image.source,
        "ome": {
            "version": _OME_VERSION,
            "multiscales": [_multiscale("image", image.affine, spacing)],
        },
    }


def read_ome_zarr(path: Place) -> tuple[Volume, Volume, dict[str, Any]]:
    """Read what `write_ome_zarr` wrote: image, mask, attributes (without `ome`).

    Raises:
        StoreError: missing, or a shard is missing or damaged.
    """
    with (
        store_reading(path, "verify the run, delete the volume and make it again"),
        stored_group(path) as (root, files),
    ):
        attributes = dict(root.attrs)
        affine = np.array(attributes["affine"], dtype=np.float64)
        source = str(attributes.get("source", path))
        header = read_array(path, root, "nifti", files).tobytes()
        image = Volume(read_array(path, root, "0", files), affine, source, header)
        mask = Volume(read_array(path, root, "labels/mask/0", files), affine, source, header)
    attributes.pop("ome")
    return image, mask, attributes


def read_informed(path: Place) -> NDArray[np.float32]:
    """The generated informed slice of a finished volume, `y x` in [-1, 1].

    Raises:
        StoreError: it has none, or it is damaged.
    """
    with (
        store_reading(path, "verify the run, delete the volume and make it again"),
        stored_group(path) as (root, files),
    ):
        return np.asarray(read_array(path, root, "informed", files), dtype=np.float32)


def read_model_mask(path: Place) -> NDArray[np.uint8]:
    """The mask that the model saw, on the image's grid (see `mask_seen` among the attributes).

    Raises:
        StoreError: the volume does not say which it was, or it is damaged.
    """
    with (
        store_reading(path, "verify the run, delete the volume and make it again"),
        stored_group(path) as (root, files),
    ):
        label = seen_label(dict(root.attrs))
        if label is None:
            raise StoreError(f"{path}: does not say which mask the model saw; make it again")
        return np.asarray(read_array(path, root, f"labels/{label}/0", files), dtype=np.uint8)


def seen_label(attributes: Mapping[str, Any]) -> str | None:
    """Name of the label that holds the mask as the model saw it; None in early versions."""
    seen = attributes.get("mask_seen")
    label = seen.get("label") if isinstance(seen, Mapping) else None
    return label if label in (MASK, MODEL_MASK) else None


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


def _multiscale(
    name: str, affine: NDArray[np.float64], spacing_mm_zyx: list[float]
) -> dict[str, Any]:
    scale = [{"type": "scale", "scale": spacing_mm_zyx}]
    return {
        "name": name,
        "axes": ome_axes(affine),
        "datasets": [{"path": "0", "coordinateTransformations": scale}],
    }
