"""The label map that a data set is prepared with: as configured, or by name.

`labels` names a shipped table, or `dataset` for the data set's own names. A class that has no label
there keeps its number and its name, so that the data fits the same weights.
"""

from __future__ import annotations

from engine.config import validate
from engine.errors import ConfigError
from engine.volumes.labels.by_name import map_by_name
from engine.volumes.labels.check import check_declared
from engine.volumes.labels.declared import DeclaredLabels
from engine.volumes.labels.tables.public import find_table
from engine.volumes.prepare_config import PrepareConfig

OWN_NAMES = "dataset"


def resolve_labels(
    config: PrepareConfig, labels: str | None, declared: DeclaredLabels, trust: bool = False
) -> PrepareConfig:
    """Settings with the label map that applies, compared with the data set's own names.

    Args:
        config: as given.
        labels: name of a shipped table, "dataset", or None to take the configured map.
        declared: the data set's own names.
        trust: take the map even where the data set's names contradict it.

    Raises:
        ConfigError: no such table, no class is labelled, or the names contradict the map.
    """
    if labels is not None:
        config = _by_name(config, labels, declared)
    if not trust:
        check_declared(_numbered_by(declared, config) if labels is not None else config, declared)
    if declared.ignore is None or declared.ignore in config.label_map:
        return config
    return config.model_copy(update={"ignore_label": declared.ignore})


def _numbered_by(declared: DeclaredLabels, config: PrepareConfig) -> PrepareConfig:
    """A named map without what it makes background where the data set has a name for that."""
    label_map = {
        raw: number
        for raw, number in config.label_map.items()
        if number or raw not in declared.names
    }
    return config.model_copy(update={"label_map": label_map})


def _by_name(config: PrepareConfig, labels: str, declared: DeclaredLabels) -> PrepareConfig:
    if labels.strip().casefold() == OWN_NAMES:
        title, names = declared.where, declared.names
        if not names:
            raise ConfigError(
                f"labels {OWN_NAMES}: {declared.where} names no labels; add them, or give "
                "--labels with the name of a public data set, or a label_map"
            )
    else:
        table = find_table(labels)
        title, names = table.title, table.names
    found = map_by_name(names, config.class_names)
    if not any(found.label_map.values()):
        raise ConfigError(
            f"labels {labels}: {title} labels {', '.join(list(names.values())[:10])}, none of the "
            f"classes {', '.join(config.class_names)}; choose other class_names or another map"
        )
    settings = {
        **config.model_dump(),
        "label_map": found.label_map,
        "unlabelled_classes": found.missing,
    }
    return validate(PrepareConfig, settings, where=f"labels {labels}")
