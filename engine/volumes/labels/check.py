"""Whether a label map agrees with what the data set itself calls its labels.

Only what is certain is refused: a name that belongs to another class, or to another structure.
Names that the vocabulary does not hold pass, and are shown beside their class once a data set.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import ConfigError
from engine.volumes.labels.by_name import map_by_name
from engine.volumes.labels.declared import DeclaredLabels
from engine.volumes.labels.structures import relation, structure
from engine.volumes.labels.tables.public import TABLES
from engine.volumes.prepare_config import PrepareConfig

_MAX_SHOWN = 6


def check_declared(config: PrepareConfig, declared: DeclaredLabels) -> None:
    """Compare by name.

    Raises:
        ConfigError: they contradict each other; says where, and which map is right.
    """
    faults = list(contradictions(config, declared))
    if not faults:
        return
    more = "" if len(faults) <= _MAX_SHOWN else f" and {len(faults) - _MAX_SHOWN} more"
    raise ConfigError(
        f"{declared.where} contradicts the label map: {'; '.join(faults[:_MAX_SHOWN])}{more}. "
        f"{_remedy(config, declared)}"
    )


def contradictions(config: PrepareConfig, declared: DeclaredLabels) -> Iterator[str]:
    """What contradicts, a phrase each."""
    for raw, name in declared.names.items():
        number = config.label_map.get(raw)
        own = _own_class(name, config)
        if number is None or number == 0:
            if own and number is None:
                yield f"raw label {raw} is {name!r}, which the map makes background"
            continue
        class_name = config.class_names[number - 1]
        if relation(name, class_name) in ("same", "either"):
            continue
        if (own and own != class_name) or relation(name, class_name) == "other":
            yield f"raw label {raw} is {name!r}, not {class_name!r}"
        elif relation(name, class_name) == "unknown":
            yield from _lies_elsewhere(raw, name, class_name, config, declared)
    if declared.ignore is not None and config.label_map.get(declared.ignore, 0):
        class_name = config.class_names[config.label_map[declared.ignore] - 1]
        yield f"raw label {declared.ignore} is `ignore` (nobody annotated it), not {class_name!r}"


def _own_class(name: str, config: PrepareConfig) -> str:
    """The class that a name belongs to, or nothing."""
    return next((c for c in config.class_names if relation(name, c) == "same"), "")


def _lies_elsewhere(
    raw: int, name: str, class_name: str, config: PrepareConfig, declared: DeclaredLabels
) -> Iterator[str]:
    """A name that says nothing, while the class's own organ has another label."""
    for other, other_name in declared.names.items():
        mapped = config.label_map.get(other, 0)
        if other != raw and relation(other_name, class_name) == "same" and not mapped:
            yield f"raw label {raw} is {name!r}, and {class_name!r} is {other}"


def _remedy(config: PrepareConfig, declared: DeclaredLabels) -> str:
    """A line that would be right, as far as names tell."""
    right = map_by_name(declared.names, config.class_names)
    if not any(right.label_map.values()):
        return (
            f"None of the classes {', '.join(config.class_names)} is named there: give the "
            "label_map and class_names of this data set (--trust-label-map keeps the map "
            "as it is)"
        )
    option = f"--labels {_fitting_table(config, declared) or 'dataset'}"
    lacking = f"; it has no label for {', '.join(right.missing)}" if right.missing else ""
    return (
        f"Right would be {option} ({right.text()}{lacking}); "
        "--trust-label-map keeps the map as it is"
    )


def _fitting_table(config: PrepareConfig, declared: DeclaredLabels) -> str | None:
    """The shipped table that says the same of every label, the smallest if there are several."""
    fitting = [
        table
        for table in TABLES
        if all(
            raw in table.names and structure(table.names[raw]) == structure(name)
            for raw, name in declared.names.items()
        )
        and map_by_name(table.names, config.class_names).missing
        == map_by_name(declared.names, config.class_names).missing
    ]
    return min(fitting, key=lambda table: len(table.names)).name if fitting else None
