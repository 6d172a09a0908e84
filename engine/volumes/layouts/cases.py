"""What a layout's reader returns: the files of each case, and what could not be taken."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.errors import LayoutError

Split = Literal["train", "test"]

_CASE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        case_id: letters, digits, `_`, `-`, `.`, not starting with a dot.
        image: intensities, or None for a mask without an image.
        mask: raw labels.
        brain_mask: non-zero inside the brain, where the data set has it.
        split: "train" or "test", as the data set says; its validation cases are "test".
        channel: of an image file that may hold several (4D); None takes the only one.
    """

    case_id: str
    image: Path | None
    mask: Path
    brain_mask: Path | None = None
    split: Split = "train"
    channel: int | None = None


@dataclass(frozen=True)
class Listing:
    """A data set as found on disk.

    Attributes:
        cases: with their files; any order.
        left_out: case id, or file below the data set's folder -> why it is not among the cases, and
            what to do.
    """

    cases: Sequence[CaseFiles]
    left_out: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Listing) -> Listing:
        """Both together."""
        return Listing([*self.cases, *other.cases], {**self.left_out, **other.left_out})


def check_case_id(case_id: str, where: Path | str) -> str:
    """Return the id, or refuse it before it becomes a file name.

    Raises:
        LayoutError: other characters than letters, digits, `_`, `-`, `.`, or a leading dot.
    """
    if not _CASE_ID.fullmatch(case_id):
        raise LayoutError(
            f"{where}: case id {case_id!r} is refused; rename the file to letters, digits, "
            "'_', '-' and '.', not starting with a dot (128 characters at most)"
        )
    return case_id


def refuse_twice(root: Path, cases: Sequence[CaseFiles]) -> None:
    """Each case id names one case.

    Raises:
        LayoutError: one names several.
    """
    counts = Counter(case.case_id for case in cases)
    twice = sorted(case_id for case_id, count in counts.items() if count > 1)
    if twice:
        raise LayoutError(f"{root}: duplicate case ids {twice[:10]}; rename one file of each")
