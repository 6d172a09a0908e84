"""Whether a stored volume is valid OME-Zarr 0.5, judged by its JSON metadata alone.

The rules are those of https://ngff.openmicroscopy.org/0.5 that concern what the engine writes: one
image of one scale, axes z y x in millimetres, one label image; and of RFC-4: the axes' orientation
is that of the affine beside it (volumes of early versions have none). Reads no voxel and needs no
zarr, so that a fault of the writer cannot hide in the reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.storage.checked_files import read_json
from engine.storage.places import Place
from engine.volumes.geometry.directions import ome_axes
from engine.volumes.store import MASK, MODEL_MASK, seen_label


def ome_faults(path: Place) -> Iterator[str]:
    """What a reader of OME-Zarr 0.5 would stumble over, each with the file that it is in."""
    root = _node(path, "group")
    if isinstance(root, str):
        yield root
        return
    attributes = root.get("attributes") or {}
    if attributes.get("synthetic") is not True:
        yield "zarr.json: the attribute `synthetic` is not true"
    axes = _axes_to_be(attributes)
    yield from _image_faults(path, attributes.get("ome"), "", axes)
    labels = _node(path / "labels", "group")
    if isinstance(labels, str):
        yield f"labels/{labels}"
        return
    names = ((labels.get("attributes") or {}).get("ome") or {}).get("labels")
    if names not in ([MASK], [MASK, MODEL_MASK]):
        yield f"labels/zarr.json: ome.labels is {names!r} and not [{MASK!r}]"
        names = [MASK]
    seen = seen_label(attributes)
    if seen is not None and seen not in names:
        yield f"labels/zarr.json: no {seen}, which is said to be the mask that the model saw"
    for name in names:
        yield from _label_faults(path, name, axes)


def _label_faults(path: Place, name: str, axes: list[dict[str, Any]] | None) -> Iterator[str]:
    label = _node(path / "labels" / name, "group")
    if isinstance(label, str):
        yield f"labels/{name}/{label}"
        return
    ome = (label.get("attributes") or {}).get("ome")
    yield from _image_faults(path / "labels" / name, ome, f"labels/{name}/", axes)
    if "image-label" not in (ome if isinstance(ome, dict) else {}):
        yield f"labels/{name}/zarr.json: no ome.image-label"


def _axes_to_be(attributes: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What the axes must say: with orientations where the image has any; None: nobody can tell."""
    if "orientation" not in json.dumps(attributes.get("ome")):
        return ome_axes(None)
    try:
        affine = np.array(attributes["affine"], dtype=np.float64)
        if affine.shape == (4, 4) and np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]):
            return ome_axes(affine)
    except (KeyError, TypeError, ValueError, np.linalg.LinAlgError):
        pass
    return None


def _image_faults(
    folder: Place, ome: Any, where: str, axes: list[dict[str, Any]] | None
) -> Iterator[str]:
    where = f"{where}zarr.json"
    if not isinstance(ome, dict) or ome.get("version") != "0.5":
        yield f"{where}: ome.version is not 0.5"
        return
    scales = ome.get("multiscales")
    if not (isinstance(scales, list) and len(scales) == 1 and isinstance(scales[0], dict)):
        yield f"{where}: ome.multiscales is not a list of one"
        return
    if axes is None:
        yield f"{where}: the axes have an orientation, and there is no affine that says the same"
    elif _without_orientation(scales[0].get("axes")) != ome_axes(None):
        yield f"{where}: the axes are not z, y, x in millimeter"
    elif scales[0].get("axes") != axes:
        yield f"{where}: the axes' orientation is not that of the image's affine"
    datasets = scales[0].get("datasets")
    if not isinstance(datasets, list) or not datasets:
        yield f"{where}: no datasets"
        return
    for dataset in datasets:
        yield from _dataset_faults(folder, dataset, where)


def _without_orientation(axes: Any) -> Any:
    if not isinstance(axes, list):
        return axes
    plain = [axis for axis in axes if isinstance(axis, dict)]
    return [{k: v for k, v in axis.items() if k != "orientation"} for axis in plain]


def _dataset_faults(folder: Place, dataset: Any, where: str) -> Iterator[str]:
    name = dataset.get("path") if isinstance(dataset, dict) else None
    if not isinstance(name, str):
        yield f"{where}: a dataset without a path"
        return
    transforms = dataset.get("coordinateTransformations")
    first = transforms[0] if isinstance(transforms, list) and transforms else {}
    scale = first.get("scale") if isinstance(first, dict) else None
    if not (
        isinstance(scale, list)
        and len(scale) == 3
        and first.get("type") == "scale"
        and all(isinstance(s, float | int) and s > 0 for s in scale)
    ):
        yield f"{where}: dataset {name} has no scale of three positive numbers"
    array = _node(folder / name, "array")
    if isinstance(array, str):
        yield f"{where}: dataset {name}: {array}"
    elif array.get("dimension_names") != ["z", "y", "x"] or len(array.get("shape", ())) != 3:
        yield f"{where}: dataset {name} is not an array z, y, x"


def _node(folder: Place, kind: str) -> dict[str, Any] | str:
    """Metadata of a Zarr v3 node, or what is wrong with it."""
    try:
        node = read_json(folder / "zarr.json")
    except (OSError, ValueError) as error:
        reason = str(error).rpartition("zarr.json: ")[2] or type(error).__name__
        return f"zarr.json: cannot be read ({reason})"
    if not isinstance(node, dict) or node.get("zarr_format") != 3 or node.get("node_type") != kind:
        return f"zarr.json: not a Zarr v3 {kind}"
    return node
