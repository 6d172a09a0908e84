"""Are a run's replicas worth making? A look at a few masks, at the end of a job that made some.

Knows no Ray; `jobs/evaluate_run.py` looks at all masks.
"""

from __future__ import annotations

from itertools import islice

from engine.errors import EngineError
from engine.evaluation.diversity.replicas import are_near_copies, calibration, spread
from engine.runs.evaluating.reading import VolumeReader
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow
from engine.runs.record.status import active_rows
from engine.storage.places import Place

_RANGE = 2.0
_MOST_MASKS = 3


def replicas_of(plans: list[PlanRow]) -> list[list[PlanRow]]:
    """Rows that ask for the same but for the seed, two or more each."""
    groups: dict[str, list[PlanRow]] = {}
    for plan in plans:
        asked = plan.model_dump_json(exclude={"sample_id", "replica", "seed", "gate"})
        groups.setdefault(asked, []).append(plan)
    return [group for group in groups.values() if len(group) > 1]


def near_copies(root: Place, data: Place) -> tuple[int, int]:
    """Look at two replicas of each of the first masks.

    Args:
        root: the run folder.
        data: prepared cases that it was made from.

    Returns:
        Masks whose replicas are near copies of each other, and masks that were looked at.
    """
    folder = RunFolder(root)
    committed = ledger.committed_ids(folder)
    plans = [row for row in active_rows(folder) if row.sample_id in committed]
    reader = VolumeReader(root, data, {})
    found = looked = 0
    for group in islice(replicas_of(plans), _MOST_MASKS):
        try:
            read = [reader.image(plan) for plan in group[:2]]
            truth = reader.truth(group[0]) if group[0].informed == "own" else None
        except EngineError:
            continue  # what is damaged is verification's business
        images, body = [image for image, _ in read], read[0][1].mask > 0
        calibrated = None if truth is None else calibration(images, truth, body)
        found += are_near_copies(spread(images, body), calibrated, _RANGE)
        looked += 1
    return found, looked
