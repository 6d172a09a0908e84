"""Did harmonizing bring a volume nearer to its reference? Appearance against anatomy.

Pure functions on numbers; knows no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from engine.evaluation.harmonization import site_spread

Part = Literal["organs", "anatomy"]


class Nearness(NamedTuple):
    """The verdict on one volume.

    Attributes:
        farther: in what the patient's true image at the reference site is probably farther from
            the volume than from its input: "organs", by their distributions, or "anatomy", voxel by
            voxel, because more was redrawn than shifted.
        unproven: its organs came nearer, but by less than the method's own error.
    """

    farther: tuple[Part, ...]
    unproven: bool


class SiteMeans(NamedTuple):
    """Mean intensities of one volume's classes before and after, and the site it came from."""

    site: str
    before: Mapping[str, float]
    after: Mapping[str, float]


def mean_distance(distances: Mapping[str, float]) -> float:
    """Of all organs; 0 without any."""
    return float(np.mean(list(distances.values()))) if distances else 0.0


def judge_nearness(
    before: Mapping[str, float],
    after: Mapping[str, float],
    own_error: float,
    tolerated: float,
    *,
    redrawn: bool,
) -> Nearness:
    """Compare a volume's distances to its reference with those of its input.

    Args:
        before: distance of each organ's distribution, of the real volume.
        after: of the harmonized one, in the same unit.
        own_error: of the method: how near the reference's own mask and slice come out.
        tolerated: as near as sampling comes; organs nearer than this are not farther.
        redrawn: more of the anatomy changed than of the appearance (`is_redrawn`).
    """
    near, far = mean_distance(after), mean_distance(before)
    organs_farther = near > max(far, tolerated)
    farther: list[Part] = ["organs"] if organs_farther else []
    if redrawn:
        farther.append("anatomy")
    return Nearness(tuple(farther), not organs_farther and far - near < own_error)


def is_redrawn(shifted: float | None, redrawn: float | None) -> bool:
    """Whether more of a volume is other anatomy than other appearance (`change_of`)."""
    return shifted is not None and redrawn is not None and redrawn > shifted


def organ_spreads(
    volumes: Iterable[SiteMeans],
) -> dict[str, tuple[float | None, float | None]]:
    """Standard deviation between sites of each organ's mean, before and after.

    Only organs that a volume has on both sides count.
    """
    before: dict[str, dict[str, list[float]]] = {}
    after: dict[str, dict[str, list[float]]] = {}
    for volume in volumes:
        for name, mean in volume.before.items():
            if name in volume.after:
                before.setdefault(name, {}).setdefault(volume.site, []).append(mean)
                after.setdefault(name, {}).setdefault(volume.site, []).append(volume.after[name])
    return {name: (site_spread(before[name]), site_spread(after[name])) for name in before}
