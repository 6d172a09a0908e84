"""How a run's volumes are made: by a model, or by one of its rivals (`engine.sampling.rivals`).

Turns the settings into what a run needs of either: a digest for its identity, and what workers
load. Knows no networks and no Ray.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from engine.errors import ConfigError
from engine.runs.planning.inputs import find_data
from engine.runs.planning.rows import CaseFacts
from engine.sampling.rivals.methods import RIVALS
from engine.storage.digests import sha256_of
from engine.storage.places import Place
from engine.volumes.layouts import Split
from engine.volumes.prepared.manifest import PreparedManifest, read_manifest


def training_cases(
    facts: Mapping[str, CaseFacts],
    splits: tuple[Split, ...],
    withdrawn: Collection[str],
    limit: int,
) -> list[str]:
    """Evenly spread cases of some splits that have an image, at most `limit`, sorted."""
    names = sorted(
        name
        for name, fact in facts.items()
        if fact.has_image and fact.split in splits and name not in withdrawn
    )
    picked = np.linspace(0, len(names) - 1, min(limit, len(names)))
    return [names[round(k)] for k in picked]


def method_title(title: str, method: str) -> str:
    """A report's title, which says so when no model made the volumes."""
    return title if method == "model" else f"{title}: {RIVALS[method].title}, no model"


def check_redrawn(place: Place, manifests: Mapping[Place, PreparedManifest]) -> None:
    """The other draw must be prepared like the data.

    Raises:
        ConfigError: other settings, or cases of the data are not in it.
        StoreError: no prepared data there.
    """
    other = read_manifest(place)
    for data, manifest in manifests.items():
        if other.config != manifest.config:
            raise ConfigError(
                f"redrawn: {place} was prepared with other settings than {data}; prepare both with "
                "the same configuration"
            )
        missing = sorted(manifest.cases.keys() - other.cases.keys())
        if missing:
            raise ConfigError(
                f"redrawn: {place} lacks {', '.join(missing[:5])} of {data}; make the same cases "
                "with another --draw"
            )


def redrawn_digest(place: Place | None) -> dict[str, str]:
    """What describes the other draw of the cases in run.yaml, where a run is made of it.

    Raises:
        ConfigError, StoreError: no prepared data there.
    """
    if place is None:
        return {}
    cases = read_manifest(find_data(place, "redrawn")).cases
    return {"redrawn": sha256_of({name: entry.sha256 for name, entry in cases.items()})}
