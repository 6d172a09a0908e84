"""The plan of a run: one row a volume, decided and written before any work.

A plan is a pure function of the cases, the settings and the seed: the same question gives the same
rows in the same order. Knows no models and no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from engine.config import FrozenConfig
from engine.errors import StoreError
from engine.runs.folder import put
from engine.sampling.informed import choose_informed


@dataclass(frozen=True)
class CaseFacts:
    """What a plan needs to know of a prepared case: its slices, and whether it has an image."""

    num_slices: int
    has_image: bool


class PlanRow(FrozenConfig):
    """One volume to be made.

    Attributes:
        sample_id: name of the volume, unique in the run.
        case_id: whose mask.
        replica: 0, 1, ... of the same mask.
        mask_source: the prepared case that the mask is read from.
        informed: "own" or "cross".
        informed_case: whose slice.
        informed_z: slice of that case, on its prepared grid.
        augmentation: what is done to the mask; None is nothing.
        seed: of the run; a sample's own randomness is a hash of it and `sample_id`.
    """

    sample_id: str
    case_id: str
    replica: int
    mask_source: str
    informed: str
    informed_case: str
    informed_z: int
    augmentation: str | None
    seed: int


def build_plan(
    cases: Mapping[str, CaseFacts],
    masks: Sequence[str],
    informed: Literal["own", "cross"],
    replicas: int,
    seed: int,
) -> tuple[PlanRow, ...]:
    """Decide every volume of a run.

    Args:
        cases: all prepared cases; informed slices of "cross" come from any of them.
        masks: the cases whose masks are resampled.
        informed: whose appearance a mask gets.
        replicas: volumes a mask.
        seed: of the run.

    Raises:
        SamplingError: an informed slice does not exist; names the case.
    """
    with_image = {name: facts.num_slices for name, facts in cases.items() if facts.has_image}
    rows = []
    for case_id in masks:
        for replica in range(replicas):
            sample_id = f"{case_id}-r{replica:02d}"
            choice = choose_informed(
                informed, case_id, cases[case_id].num_slices, with_image, seed, sample_id
            )
            rows.append(
                PlanRow(
                    sample_id=sample_id,
                    case_id=case_id,
                    replica=replica,
                    mask_source=f"{case_id}.zarr",
                    informed=informed,
                    informed_case=choice.case_id,
                    informed_z=choice.z,
                    augmentation=None,
                    seed=seed,
                )
            )
    return tuple(rows)


def write_plan(path: Path, rows: Sequence[PlanRow]) -> None:
    """Write the rows as JSON lines, in one piece."""
    put(path, render_plan(rows))


def render_plan(rows: Sequence[PlanRow]) -> str:
    """The plan file's text."""
    return "".join(row.model_dump_json() + "\n" for row in rows)


def read_plan(path: Path) -> tuple[PlanRow, ...]:
    """Read what `write_plan` wrote.

    Raises:
        StoreError: a line is damaged; names it.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(PlanRow.model_validate_json(line))
        except ValidationError:
            raise StoreError(
                f"{path}:{number}: not a plan row of this version; start a new run folder"
            ) from None
    return tuple(rows)
