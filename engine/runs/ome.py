"""Whether a stored volume is valid OME-Zarr 0.5, judged by its JSON metadata alone.

The rules are those of https://ngff.openmicroscopy.org/0.5 that concern what the engine writes: one
image of one scale, axes z y x in millimetres, one label image. Reads no voxel and needs no zarr, so
that a fault of the writer cannot hide in the reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.storage.checked_files import read_json
from engine.storage.places import Place

_AXES = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]


def ome_faults(path: Place) -> Iterator[str]:
    """What a reader of OME-Zarr 0.5 would stumble over, each with the file that it is in."""
    root = _node(path, "group")
    if isinstance(root, str):
        yield root
        return
    attributes = root.get("attributes") or {}
    if attributes.get("synthetic") is not True:
        yield "zarr.json: the attribute `synthetic` is not true"
    yield from _image_faults(path, attributes.get("ome"), "")
    labels = _node(path / "labels", "group")
    if isinstance(labels, str):
        yield f"labels/{labels}"
        return
    names = ((labels.get("attributes") or {}).get("ome") or {}).get("labels")
    if names != ["mask"]:
        yield f"labels/zarr.json: ome.labels is {names!r} and not ['mask']"
    label = _node(path / "labels" / "mask", "group")
    if isinstance(label, str):
        yield f"labels/mask/{label}"
        return
    ome = (label.get("attributes") or {}).get("ome")
    yield from _image_faults(path / "labels" / "mask", ome, "labels/mask/")
    if "image-label" not in (ome if isinstance(ome, dict) else {}):
        yield "labels/mask/zarr.json: no ome.image-label"


def _image_faults(folder: Place, ome: Any, where: str) -> Iterator[str]:
    where = f"{where}zarr.json"
    if not isinstance(ome, dict) or ome.get("version") != "0.5":
        yield f"{where}: ome.version is not 0.5"
        return
    scales = ome.get("multiscales")
    if not (isinstance(scales, list) and len(scales) == 1 and isinstance(scales[0], dict)):
        yield f"{where}: ome.multiscales is not a list of one"
        return
    if scales[0].get("axes") != _AXES:
        yield f"{where}: the axes are not z, y, x in millimeter"
    datasets = scales[0].get("datasets")
    if not isinstance(datasets, list) or not datasets:
        yield f"{where}: no datasets"
        return
    for dataset in datasets:
        yield from _dataset_faults(folder, dataset, where)


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
