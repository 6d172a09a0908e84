"""Nearer, farther, unproven, redrawn: from distances alone."""

import pytest

from engine.evaluation.nearness import (
    Nearness,
    SiteMeans,
    is_redrawn,
    judge_nearness,
    organ_spreads,
)


@pytest.mark.parametrize(
    ("before", "after", "redrawn", "verdict"),
    [
        (40.0, 10.0, False, Nearness((), unproven=False)),
        (40.0, 38.0, False, Nearness((), unproven=True)),
        (40.0, 50.0, False, Nearness(("organs",), unproven=False)),
        (40.0, 50.0, True, Nearness(("organs", "anatomy"), unproven=False)),
        (40.0, 10.0, True, Nearness(("anatomy",), unproven=False)),
        (2.0, 8.0, False, Nearness((), unproven=True)),  # as near as sampling comes
    ],
)
def test_verdicts(before: float, after: float, redrawn: bool, verdict: Nearness) -> None:
    found = judge_nearness({"liver": before}, {"liver": after}, 5.0, 10.0, redrawn=redrawn)
    assert found == verdict


def test_redrawn_needs_both_numbers() -> None:
    assert is_redrawn(1.0, 2.0)
    assert not is_redrawn(2.0, 1.0)
    assert not is_redrawn(None, 2.0)
    assert not is_redrawn(1.0, None)


def test_spreads_are_between_the_sites_means() -> None:
    volumes = [
        SiteMeans("A", {"liver": 100.0, "spleen": 1.0}, {"liver": 105.0}),
        SiteMeans("A", {"liver": 110.0}, {"liver": 105.0}),
        SiteMeans("B", {"liver": 145.0}, {"liver": 107.0}),
    ]
    assert organ_spreads(volumes) == {"liver": (20.0, 1.0)}
