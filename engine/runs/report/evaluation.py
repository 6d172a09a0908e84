"""An evaluation in a run folder, and its section on the run's page.

`jobs/evaluate_run.py` writes it; a page that is drawn anew keeps it. Measures nothing.
"""

from __future__ import annotations

import base64
import importlib.resources
import re
from typing import Literal

import jinja2
from pydantic import Field

from engine.config import FrozenConfig
from engine.log import get_logger
from engine.runs.record.folder import RunFolder
from engine.runs.report.measures import number
from engine.storage.checked_files import MAX_LIST_BYTES, read_model, read_text
from engine.storage.files import put

log = get_logger(__name__)

METRICS, PLOT = "metrics.json", "metrics.svg"
_SECTION = re.compile(r"<!-- evaluation -->.*?<!-- end of evaluation -->", re.DOTALL)


class Cell(FrozenConfig):
    """One number of a table, or why there is none.

    Attributes:
        mean: over patients; None is absent.
        low: of the 95 % bootstrap interval over patients.
        high: of it.
        patients: behind the mean.
        volumes: behind the mean.
        reason: why it is absent.
    """

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    patients: int = 0
    volumes: int = 0
    reason: str = ""


class Column(FrozenConfig):
    """One measure of a table.

    Attributes:
        name: its key in the rows.
        title: for a person.
        meaning: one sentence without its point.
        unit: "" for a ratio.
        digits: behind the point.
        best: value of a perfect volume.
    """

    name: str
    title: str
    meaning: str
    unit: str = ""
    digits: int = 3
    best: float | None = None


class Table(FrozenConfig):
    """Measures of one kind; the first row is the run's, the others are its rivals'."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: dict[str, dict[str, Cell]]

    @property
    def meanings(self) -> list[str]:
        """A sentence for each measure; classes of one measure share it."""
        found = {c.title.partition(",")[0]: c for c in self.columns}
        return [f"{title}: {column.meaning}." for title, column in found.items()]

    @property
    def reasons(self) -> list[str]:
        """Why numbers are absent, each once."""
        cells = [cell for row in self.rows.values() for cell in row.values()]
        return list(dict.fromkeys(c.reason for c in cells if c.mean is None and c.reason))


class Metrics(FrozenConfig):
    """Content of metrics.json.

    Attributes:
        settings_sha256: of the run's settings and data.
        weights_sha256: of the run's weights, or its rival's digest.
        against: name of the folder of real cases, and sha256 of what it holds.
        patients: whose masks the volumes are of.
        volumes: that were looked at.
        failed: volumes that could not be looked at, and why.
        warnings: what a reader must know first.
        protocols: how distances were taken.
        tables: for people and programs.
        replicas: of each mask with several, how they differ.
        pairs: of each mask with two informed slices, how the volumes differ.
        samples: row -> sample -> measure -> value.
    """

    format: Literal["gem3d-evaluation/1"] = "gem3d-evaluation/1"
    settings_sha256: str
    weights_sha256: str
    against: str
    against_sha256: str
    patients: int
    volumes: int
    failed: dict[str, str] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    protocols: dict[str, str] = Field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    replicas: dict[str, dict[str, object]] = Field(default_factory=dict)
    pairs: dict[str, dict[str, object]] = Field(default_factory=dict)
    samples: dict[str, dict[str, dict[str, object]]] = Field(default_factory=dict)

    @property
    def has_intervals(self) -> bool:
        """Whether any number has one."""
        cells = (c for t in self.tables for row in t.rows.values() for c in row.values())
        return any(cell.low is not None for cell in cells)


def evaluation_section(folder: RunFolder) -> str:
    """The section's HTML; "" where the run was not evaluated, or its file is damaged."""
    try:
        metrics = read_model(Metrics, folder.evaluation / METRICS, MAX_LIST_BYTES)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        log.warning("%s: cannot be shown (%s)", folder.evaluation / METRICS, error)
        return ""
    try:
        plot = base64.b64encode(read_text(folder.evaluation / PLOT).encode()).decode()
    except (OSError, ValueError):
        plot = ""
    page = importlib.resources.files("engine.runs.report").joinpath("evaluation.html")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    return environment.from_string(page.read_text("utf-8")).render(m=metrics, plot=plot)


def put_on_page(folder: RunFolder) -> bool:
    """Put the section on the page that the run's job wrote.

    Returns:
        Whether the page is there and has a place for it (early versions have none).
    """
    try:
        page = read_text(folder.report, MAX_LIST_BYTES)
    except (OSError, ValueError):
        return False
    section = f"<!-- evaluation -->{evaluation_section(folder)}<!-- end of evaluation -->"
    changed, count = _SECTION.subn(lambda _: section, page, count=1)
    if count:
        put(folder.report, changed)
    return bool(count)
