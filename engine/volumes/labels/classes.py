"""Raw labels to classes by the label map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.labels.counts import count_labels
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.volume import Volume

_MAX_TABLE = 2**16


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
    if present[-1] <= _MAX_TABLE:
        table = np.zeros(present[-1] + 1, dtype=np.uint8)
        table[list(named)] = list(named.values())
        return table[labels.array]
    classes = np.zeros(labels.size_zyx, dtype=np.uint8)
    for raw, target in named.items():
        classes[labels.array == raw] = target
    return classes
