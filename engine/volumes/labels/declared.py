"""What a data set's own `dataset.json` calls its raw labels. Reads no file.

nnU-Net v2 writes name -> number (or a list of numbers: a region), nnU-Net v1 and the Decathlon
number -> name, some tools a list. Every raw label gets one name; `ignore` marks voxels that nobody
annotated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import LayoutError
from engine.volumes.labels.structures import structure
from engine.volumes.labels.tables.vocabulary import REST_OF_REGION

_MAX_LABEL = 2**31 - 1


@dataclass(frozen=True)
class DeclaredLabels:
    """A data set's own names.

    Attributes:
        where: the file that says so.
        names: raw label -> name; background and `ignore` are left out.
        ignore: raw label of voxels that nobody annotated, or None.
    """

    where: str
    names: Mapping[int, str] = field(default_factory=dict)
    ignore: int | None = None


def declared_labels(raw: Mapping[str, Any], where: str) -> DeclaredLabels:
    """The names in a `dataset.json`; none where it names only background, or nothing.

    Raises:
        LayoutError: `labels` contradicts itself or cannot be read; says how to write it.
    """
    labels = raw.get("labels")
    if isinstance(labels, list) and all(isinstance(name, str) for name in labels):
        labels = {str(number): name for number, name in enumerate(labels)}
    if not labels:
        return DeclaredLabels(where)
    if not isinstance(labels, Mapping):
        raise LayoutError(f'{where}: `labels` is no object such as {{"liver": 1}}; correct it')
    numbers = _numbers(labels, where)
    ignore = [v for name, values in numbers.items() if name == "ignore" for v in values]
    regions = {n: v for n, v in numbers.items() if n != "ignore" and not _is_background(n)}
    for name, values in numbers.items():
        if _is_background(name) and values != (0,):
            raise LayoutError(f"{where}: `labels` makes {name} {values[0]}; background is 0")
    names = _named(regions, raw.get("regions_class_order"), where)
    if len(ignore) > 1 or set(ignore) & names.keys():
        raise LayoutError(f"{where}: `labels` gives `ignore` a number that is taken; correct it")
    return DeclaredLabels(where, dict(sorted(names.items())), ignore[0] if ignore else None)


def _is_background(name: str) -> bool:
    return name.strip().casefold() in ("background", "bg", "clear label")


def _numbers(labels: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Name -> its raw labels, whichever way round the file is written."""
    if all(str(key).strip().isdecimal() for key in labels):
        turned: dict[str, tuple[int, ...]] = {}
        for key, name in labels.items():
            if not isinstance(name, str):
                raise LayoutError(
                    f"{where}: `labels` has {name!r} for {key}, not a name; correct it"
                )
            turned[name.strip()] = (*turned.get(name.strip(), ()), int(key))
        return turned
    return {str(name).strip(): _values(value, str(name), where) for name, value in labels.items()}


def _values(value: Any, name: str, where: str) -> tuple[int, ...]:
    given: Sequence[Any] = value if isinstance(value, list) else [value]
    numbers = []
    for one in given:
        if isinstance(one, str) and one.strip().isdecimal():
            one = int(one)
        whole = isinstance(one, int | float) and not isinstance(one, bool) and one == int(one)
        if not whole or not 0 <= one <= _MAX_LABEL:
            raise LayoutError(
                f"{where}: `labels` has {one!r} for {name}, not a label; write a number from 0 on"
            )
        numbers.append(int(one))
    if not numbers:
        raise LayoutError(f"{where}: `labels` has no number for {name}; correct it")
    return tuple(dict.fromkeys(numbers))


def _named(regions: Mapping[str, tuple[int, ...]], order: Any, where: str) -> dict[int, str]:
    """One name for every raw label, where regions hold several and lie inside each other.

    A label is what the smallest region that holds it says. What is left of a region around a
    smaller one may have a name of its own: whole tumour around tumour core is edema.
    """
    names = {}
    for value in {v for values in regions.values() for v in values if v != 0}:
        holding = [name for name, values in regions.items() if value in values]
        name = min(holding, key=lambda n: len(regions[n]))
        if any(not set(regions[name]) < set(regions[n]) for n in holding if n != name):
            if not order:
                raise LayoutError(
                    f"{where}: `labels` gives {value} to {' and '.join(holding)}, which do not lie "
                    "inside each other; correct it, or add `regions_class_order`"
                )
            name = holding[-1]  # nnU-Net writes region after region: the last one stays
        names[value] = _rest(name, regions) or name
    return names


def _rest(name: str, regions: Mapping[str, tuple[int, ...]]) -> str | None:
    """Name of a region without the smaller one in it, where that is something else."""
    inside, rest = REST_OF_REGION.get(structure(name).name, ("", ""))
    smaller = [n for n in regions if set(regions[n]) < set(regions[name])]
    return rest if any(structure(n).name == inside for n in smaller) else None
