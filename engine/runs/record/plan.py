"""The plan of a run: one row a volume, decided and written before any work.

Rows are written and read one by one, so that a plan of any length takes little memory. Which rows
there are is decided in `planning/rows.py`. Knows no models, no voxels and no Ray.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Annotated, Literal, TextIO

from pydantic import Field, ValidationError

from engine.config import FrozenConfig
from engine.errors import MalformedFileError, RunError, StoreError
from engine.seeds import noise_seed
from engine.storage.checked_files import iter_lines
from engine.storage.files import whole_file
from engine.storage.places import Place
from engine.volumes.layouts import Split
from engine.volumes.mask_changes import MaskChange

_IN_RUN = "run:"

POSITION_MODEL = "position model"
"""Whose slice a generated one is; no case id, which has no space."""

InformedSource = Literal["own", "cross", "fixed", "generated"]
MAX_SAMPLE_ID = 200
"""Characters; file systems hold 255, and staged names add to it."""
SampleId = Annotated[str, Field(pattern=rf"^[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,{MAX_SAMPLE_ID - 1}}}$")]
"""Becomes a file name, so that a plan from elsewhere cannot reach out of the run folder."""
Verdict = Literal["fits", "warned", "redrawn", "edited", "skipped", "unchecked"]


def in_run(path: str) -> str:
    """The source of a prepared case that the run folder itself holds."""
    return f"{_IN_RUN}{path}"


def stored_at(root: Place, data: Place, source: str) -> Place:
    """Where a source of a plan row lies: in the run folder, else in the data folder.

    Raises:
        StoreError: the plan names a place outside both.
    """
    base, name = (root, source[len(_IN_RUN) :]) if source.startswith(_IN_RUN) else (data, source)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name:
        raise StoreError(
            f"{name!r}: a plan may name prepared cases of its data and run folder only; "
            "start a new run folder"
        )
    return base / name


class GateNote(FrozenConfig):
    """What the compatibility gate found and did for one row (see `planning/gate.py`).

    Attributes:
        verdict: what was done.
        outline: how much the body outlines disagree, 0 (equal) to 1 (nothing in common).
        organs: how far organs of the mask lie outside the slice's outline, as a share of them.
        draws: informed slices that were looked at.
    """

    verdict: Verdict
    outline: float
    organs: float
    draws: int = 1


class PlanRow(FrozenConfig):
    """One volume to be made.

    Attributes:
        sample_id: name of the volume, unique in the run.
        case_id: whose mask.
        replica: 0, 1, ... of the same mask, informed source and augmentation.
        num_slices: of the mask's prepared grid.
        mask_source: the prepared case that the mask is read from (see `stored_at`).
        informed: where the appearance comes from.
        informed_case: whose slice; `POSITION_MODEL` for "generated".
        informed_source: the prepared case that the slice is read from (see `stored_at`); empty for
            "generated": the worker draws it, and keeps it beside the volume.
        informed_z: slice of that case, on its prepared grid ("generated": of the mask's own).
        informed_of: case of the data that a slice file is the image of, by its bytes; empty is none
            that is known.
        changes: what is done to the mask, in this order.
        drawn_mask: a mask file of the run folder, on the case's own grid, that replaces its mask;
            empty is none.
        mask_sha256: of the case at `mask_source` when it was planned (`PreparedHeader.digest`);
            empty in runs of version 0.1.0.
        informed_sha256: of the case at `informed_source`, likewise; empty for "generated".
        drawn_sha256: of the file `drawn_mask`; empty is none.
        gate: what the compatibility gate said; None where it was not asked.
        split: of the data set, that the mask belongs to; exports keep it.
        seed: of the run; a sample's own randomness is a hash of it and `sample_id`.
    """

    sample_id: SampleId
    case_id: str
    replica: int = Field(ge=0)
    num_slices: int = Field(ge=1)
    mask_source: str
    informed: InformedSource
    informed_case: str
    informed_source: str
    informed_z: int = Field(ge=0)
    informed_of: str = ""
    changes: tuple[MaskChange, ...] = ()
    drawn_mask: str = ""
    mask_sha256: str = ""
    informed_sha256: str = ""
    drawn_sha256: str = ""
    gate: GateNote | None = None
    split: Split = "train"
    seed: int = Field(ge=0)

    @property
    def sha256(self) -> str:
        """Digest of what the row says; the commit record names it.

        Defaults are left out, so that it stays true when later versions add fields.
        """
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()

    @property
    def names(self) -> frozenset[str]:
        """Cases and slice files whose mask or slice is part of this volume."""
        return frozenset((self.case_id, self.informed_case, self.informed_of)) - {
            "",
            POSITION_MODEL,
        }

    def uses(self, case_id: str) -> bool:
        """Whether a case's mask or slice is part of this volume."""
        return case_id in self.names


def retry_seed(seed: int, sample_id: str, retries: int) -> int:
    """The seed that a sample is made with: the run's, and others when the quality gate asks again.

    Args:
        seed: of the run.
        sample_id: of the sample.
        retries: volumes that the quality gate has refused before.
    """
    return noise_seed(seed, sample_id, retries, "quality retry") if retries else seed


def write_plan(path: Place, rows: Iterable[PlanRow]) -> int:
    """Write the rows as JSON lines: the whole plan, or no file; returns their number.

    Raises:
        RunError: two rows have one name.
    """
    with whole_file(path) as file:
        return write_rows(file, rows)[0]


def write_rows(file: TextIO | None, rows: Iterable[PlanRow]) -> tuple[int, str]:
    """Write the rows as JSON lines; None only counts and hashes them.

    Returns:
        Their number, and sha256 of the lines.

    Raises:
        RunError: two rows have one name.
    """
    count, digest = 0, hashlib.sha256()
    for row in refuse_doubles(rows):
        line = row.model_dump_json() + "\n"
        if file is not None:
            file.write(line)
        digest.update(line.encode())
        count += 1
    return count, digest.hexdigest()


def refuse_doubles(rows: Iterable[PlanRow]) -> Iterator[PlanRow]:
    """The rows as they come; the second of one name ends them: it would replace the first's volume.

    Raises:
        RunError: names the two masks and slices.
    """
    origins: dict[str, str] = {}
    for row in rows:
        origin = f"mask {row.case_id} with slice {row.informed_case}:{row.informed_z}"
        if row.sample_id in origins:
            raise RunError(
                f"{row.sample_id}: two volumes would have this name ({origins[row.sample_id]}; "
                f"{origin}); rename one of the cases or slice files"
            )
        origins[row.sample_id] = origin
        yield row


def render_plan(rows: Iterable[PlanRow]) -> str:
    """The plan file's text."""
    return "".join(row.model_dump_json() + "\n" for row in rows)


def iter_plan(path: Place) -> Iterator[PlanRow]:
    """Read what `write_plan` wrote, row by row.

    Raises:
        StoreError: the file is missing or a line is damaged; names it.
    """
    try:
        for number, line in enumerate(iter_lines(path), start=1):
            try:
                yield PlanRow.model_validate_json(line)
            except ValidationError:
                raise StoreError(
                    f"{path}:{number}: not a plan row of this version; start a new run folder"
                ) from None
    except MalformedFileError as error:
        raise StoreError(f"{error}; put back the plan, or start a new run folder") from None
    except FileNotFoundError:
        raise StoreError(
            f"{path}: missing; this is not a run folder, or its job was ended while planning: "
            "start the job again"
        ) from None


def read_plan(path: Place) -> tuple[PlanRow, ...]:
    """All rows of a plan; see `iter_plan`."""
    return tuple(iter_plan(path))
