"""The table of rivals: what each does, and what it needs to know.

Settings, help text, titles and checks read the table. A rival's version is part of a run's
identity: change it when its voxels change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from engine.storage.digests import sha256_of

MethodName = Literal["model", "painting", "atlas", "copy", "identity", "quantiles", "redrawn"]
"""How volumes are made; "model" is the one that learned something."""


@dataclass(frozen=True)
class Rival:
    """One way to make a volume without a model.

    Attributes:
        title: for a person.
        meaning: one sentence without its point.
        version: of its voxels.
        needs_cohort: looks at the training cases.
        needs_real: looks at the mask's own real volume, so that it is a rival in harmonization
            only.
    """

    title: str
    meaning: str
    version: int = 1
    needs_cohort: bool = False
    needs_real: bool = False


RIVALS: dict[str, Rival] = {
    "painting": Rival(
        "painting by numbers",
        "each class of the mask has its mean in the informed slice, or its mean in the training "
        "cases where the slice does not show it",
        needs_cohort=True,
    ),
    "atlas": Rival(
        "atlas",
        "the mean of the training cases, each brought onto the body's box, as bright as the "
        "informed slice, with the organs painted",
        needs_cohort=True,
    ),
    "copy": Rival("copy of the slice", "every slice is the informed slice"),
    "identity": Rival(
        "identity", "the mask's own real volume as it is", needs_real=True
    ),
    "quantiles": Rival(
        "quantile matching",
        "the mask's own real volume, the distribution of each class matched to that of the class "
        "in the informed slice; classes that the slice does not show stay as they are",
        needs_real=True,
    ),
    "redrawn": Rival(
        "redrawn truth",
        "the same anatomy and contrast with another draw of texture and noise: what a perfect "
        "model would make",
        needs_real=True,
    ),
}  # fmt: skip
assert {"model", *RIVALS} == set(get_args(MethodName))


def rival_digest(name: str) -> str:
    """What stands in the place of the weights' digest in a rival's run."""
    return sha256_of({"rival": name, "version": RIVALS[name].version})
