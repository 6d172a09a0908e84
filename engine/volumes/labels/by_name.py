"""A label map from names: which raw label is which class.

Used where a data set's labels are known by name: by its own `dataset.json` or by a shipped table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.volumes.labels.structures import relation, structure


@dataclass(frozen=True)
class NamedMap:
    """A label map made by name.

    Attributes:
        label_map: raw label -> class 1, 2, ...; 0 is background on purpose: another structure.
        missing: classes that no label has.
    """

    label_map: dict[int, int]
    missing: tuple[str, ...]

    def text(self) -> str:
        """As a line of a configuration."""
        pairs = ", ".join(f"{raw}: {number}" for raw, number in self.label_map.items() if number)
        return f"label_map: {{{pairs}}}"


def map_by_name(names: Mapping[int, str], class_names: Sequence[str]) -> NamedMap:
    """Find each label's class.

    A tumour (no cyst) inside an organ counts as the organ where no class is the tumour's own. One
    that does not say its organ counts so only where the labels name a single organ; otherwise it
    is left out of the map.

    Args:
        names: raw label -> name, without background.
        class_names: of classes 1, 2, ..., without a contour that preparing adds.
    """
    found = {raw: _class_of(name, class_names) for raw, name in names.items()}
    organs = {name for name in names.values() if not structure(name).lesion}
    for raw, name in names.items():
        if found[raw] == 0 and structure(name).lesion in ("tumor", "lesion"):
            found[raw] = _organ_around(name, organs, found, names, class_names)
    label_map = {raw: number for raw, number in sorted(found.items()) if number is not None}
    there = set(label_map.values())
    missing = tuple(n for number, n in enumerate(class_names, 1) if number not in there)
    return NamedMap(label_map, missing)


def _class_of(name: str, class_names: Sequence[str]) -> int | None:
    """The class that is a label's own, or a lesion that it is a part of; 0 is none."""
    relations = [relation(name, class_name) for class_name in class_names]
    for wanted in ("same", "either"):
        if wanted in relations:
            return relations.index(wanted) + 1
    parts = [
        number
        for number, (related, class_name) in enumerate(zip(relations, class_names, strict=True), 1)
        if related == "inside" and _is_lesion(class_name)
    ]
    return parts[0] if parts else 0


def _is_lesion(name: str) -> bool:
    known = structure(name)
    return bool(known.lesion) or known.name in ("tumor core", "whole tumor")


def _organ_around(
    name: str,
    organs: set[str],
    found: Mapping[int, int | None],
    names: Mapping[int, str],
    class_names: Sequence[str],
) -> int | None:
    """The class of the organ that a lesion lies in, if a label of its own draws that organ."""
    if not structure(name).name and len({structure(organ).name for organ in organs}) > 1:
        return None  # the data set does not say in which of them
    for number, class_name in enumerate(class_names, start=1):
        drawn = any(
            found[raw] == number and not structure(other).lesion for raw, other in names.items()
        )
        if drawn and relation(name, class_name) == "inside":
            return number
    return 0
