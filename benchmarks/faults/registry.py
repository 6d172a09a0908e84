"""All families of faults. A new one is a module with `FAULTS`, and one line here."""

from __future__ import annotations

from faults import (
    clusters,
    damage,
    drivers,
    inputs,
    late,
    nodes,
    preparing,
    shortages,
    stores,
    workers,
)
from faults.bench import Fault

FAMILIES: tuple[tuple[Fault, ...], ...] = (
    drivers.FAULTS,
    damage.FAULTS,
    inputs.FAULTS,
    late.FAULTS,
    shortages.FAULTS,
    workers.FAULTS,
    clusters.FAULTS,
    preparing.FAULTS,
    nodes.FAULTS,
    stores.FAULTS,
)

FAULTS: dict[str, Fault] = {fault.name: fault for family in FAMILIES for fault in family}
