"""Raw labels: counted, turned to classes by the label map, and shown once for a reader.

A wrong label map is seen in what `describe_labels` shows, also where the data set names no label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.labels.declared import DeclaredLabels
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.volume import Array, Volume

_MAX_OTHERS = 12
_SMALL = 2**16


def count_labels(labels: Array) -> dict[int, int]:
    """Raw label -> voxels, sorted; plane by plane, a sort of the whole volume takes seconds.

    Args:
        labels: `z y x` integers, none negative.
    """
    counts: Counter[int] = Counter()
    for plane in labels:
        if plane.size and int(plane.max()) < _SMALL:
            found = np.bincount(plane.ravel())
            counts.update({int(v): int(found[v]) for v in np.flatnonzero(found)})
        else:
            values, numbers = np.unique(plane, return_counts=True)
            counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return dict(sorted(counts.items()))


def classes_of(labels: Volume, config: PrepareConfig) -> NDArray[np.uint8]:
    """Raw labels -> uint8 classes by the label map, on the same grid.

    Raises:
        VolumeError: labels that the map does not name, or no class in the whole mask.
    """
    counts = count_labels(labels.array)
    present = list(counts)
    if config.ignored_voxels == "refuse" and config.ignore_label in counts:
        raise VolumeError(
            f"{labels.source}: {counts[config.ignore_label]} voxels have label "
            f"{config.ignore_label}, `ignore`: nobody annotated them; leave the case out, or take "
            "them as background (ignored_voxels background)"
        )
    known = {0, config.ignore_label, *config.label_map}
    unknown = [v for v in present if v not in known]
    if unknown and config.other_labels == "refuse":
        raise VolumeError(
            f"{labels.source}: labels {unknown} are outside the label map "
            f"{sorted(config.label_map)}; add them to label_map or set other_labels: background"
        )
    named = {v: config.label_map[v] for v in present if config.label_map.get(v, 0)}
    if not named:
        raise VolumeError(
            f"{labels.source}: empty mask, none of the labels {sorted(config.label_map)} is in it "
            f"(found {present[:20]}); check label_map, or leave the case out"
        )
    if present[-1] <= _SMALL:
        table = np.zeros(present[-1] + 1, dtype=np.uint8)
        table[list(named)] = list(named.values())
        return table[labels.array]
    classes = np.zeros(labels.size_zyx, dtype=np.uint8)
    for raw, target in named.items():
        classes[labels.array == raw] = target
    return classes


def describe_labels(
    config: PrepareConfig, declared: DeclaredLabels, cases: Iterable[Mapping[int, int]]
) -> list[str]:
    """A line for each class, and for what became background.

    Args:
        config: how the cases were prepared.
        declared: the data set's own names; may be empty.
        cases: raw label -> voxels of each case.
    """
    per_case = [counts for counts in cases if counts]
    voxels: Counter[int] = Counter()
    for counts in per_case:
        voxels.update(counts)
    lines = []
    for number, class_name in enumerate(config.class_names, start=1):
        raws = [raw for raw, target in config.label_map.items() if target == number]
        if not raws:
            lines.append(f"class {number} {class_name}: no label in this data set")
            continue
        shown = ", ".join(_shown(raw, declared, voxels) for raw in sorted(raws))
        having = sum(any(counts.get(raw) for raw in raws) for counts in per_case)
        lines.append(f"class {number} {class_name}: {shown}; in {having} of {len(per_case)} cases")
    if config.contour_name is not None:
        number = len(config.class_names) + 1
        lines.append(f"class {number} {config.contour_name}: added around them")
    lines += _background(config, declared, voxels)
    return lines


def _background(
    config: PrepareConfig, declared: DeclaredLabels, voxels: Mapping[int, int]
) -> Iterator[str]:
    others = [raw for raw in voxels if raw and not config.label_map.get(raw)]
    if others:
        shown = ", ".join(_shown(raw, declared, voxels) for raw in others[:_MAX_OTHERS])
        more = f", and {len(others) - _MAX_OTHERS} more" if len(others) > _MAX_OTHERS else ""
        yield f"no class: {shown}{more}"


def _shown(raw: int, declared: DeclaredLabels, voxels: Mapping[int, int]) -> str:
    name = declared.names.get(raw)
    name = "ignore" if raw == declared.ignore else name
    called = f" ({name})" if name else ""
    return f"raw label {raw}{called} {voxels.get(raw, 0)} voxels"
