"""The report of a run: one self-contained page for a person to look at.

Puts pictures (`shown_volumes.py`) and numbers (`summary.py`) on `report.html`. Decides nothing and
measures nothing.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from typing import Any

import jinja2

from engine.parallel.own_process import in_own_process
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import RunIdentity
from engine.runs.record.plan import PlanRow
from engine.runs.record.status import active_rows
from engine.runs.report.evaluation import evaluation_section
from engine.runs.report.measures import columns, headline, meanings, number
from engine.runs.report.shown_volumes import ShownVolumes, show_volumes
from engine.runs.report.summary import RunSummary, VolumeSummary
from engine.storage.files import put
from engine.storage.places import Place

_FAILURES_LISTED = 200


def write_report(
    folder: RunFolder,
    data: Place,
    identity: RunIdentity,
    summary: RunSummary,
    num_pictured: int,
    remarks: Mapping[str, str],
    title: str = "Resampled volumes",
) -> Place:
    """Write report.html; of a long run it shows a part, and says of how many.

    Args:
        folder: the run.
        data: prepared cases, for informed slices and display windows.
        identity: content of run.yaml.
        summary: of the run; the table shows what it lists.
        num_pictured: volumes to draw, in plan order.
        remarks: what else a reader should know of a case, by case id.
        title: of the page.

    Returns:
        The page's path.

    Raises:
        StoreError: a committed volume or a prepared case is damaged.
    """
    pictured = {volume.sample_id: volume for volume in summary.volumes[:num_pictured]}
    shown, failures = _rows_to_show(folder, summary, pictured)
    drawn = (
        in_own_process(show_volumes, folder, data, shown, remarks)
        if shown
        else ShownVolumes([], [], "")
    )
    page = _template().render(
        **_numbers(summary),
        title=title,
        failures=failures,
        num_failures_left_out=summary.failed - len(failures),
        evaluation=evaluation_section(folder),
        pictured=pictured.keys(),
        window=drawn.window,
        shown=drawn.volumes,
        num_left_out=summary.committed - len(drawn.volumes),
        legend=drawn.legend,
        provenance=_provenance(identity),
    )
    put(folder.report, page)
    return folder.report


def _numbers(summary: RunSummary) -> dict[str, Any]:
    """What the page shows of the summary alone."""
    unit = summary.volumes[0].unit if summary.volumes else ""
    return {
        "subtitle": _subtitle(summary),
        "headline": _headline(summary),
        "fidelity_note": _fidelity_note(summary),
        "num_cases": summary.num_cases,
        "columns": columns(summary.volumes),
        "meanings": meanings(unit, by_class=False),
        "class_meanings": meanings(unit, by_class=True),
        "grid_loss": summary.grid_loss,
        "lost": [volume for volume in summary.volumes if volume.lost],
        "volumes": summary.volumes,
        "num_unlisted": summary.committed - len(summary.volumes),
    }


def _rows_to_show(
    folder: RunFolder, summary: RunSummary, pictured: Mapping[str, VolumeSummary]
) -> tuple[list[tuple[PlanRow, VolumeSummary]], list[dict[str, Any]]]:
    """Rows to draw, and the first of what was not made; reads the plan once."""
    shown: list[tuple[PlanRow, VolumeSummary]] = []
    failures: list[dict[str, Any]] = []
    committed = ledger.committed_ids(folder) if summary.failed else set()
    wanted = min(summary.failed, _FAILURES_LISTED)
    for row in active_rows(folder):
        if row.sample_id in pictured:
            shown.append((row, pictured[row.sample_id]))
        elif len(failures) < wanted and row.sample_id not in committed:
            failures.append(_failure(folder, row.sample_id))
        if len(shown) == len(pictured) and len(failures) == wanted:
            break
    return shown, failures


def _subtitle(summary: RunSummary) -> str:
    parts = [
        f"{summary.committed} of {summary.planned} planned volumes",
        f"informed slices: {summary.informed}",
    ]
    if summary.flagged:
        parts.append(f"{summary.flagged} marked by the quality gate")
    if summary.losing:
        parts.append(f"{summary.losing} whose mask the model saw without much of a class")
    if summary.skipped:
        parts.append(f"{summary.skipped} skipped: their informed slice does not fit the mask")
    if summary.withdrawn:
        parts.append(f"{summary.withdrawn} withdrawn")
    return ", ".join(parts)


def _headline(summary: RunSummary) -> list[tuple[str, str]]:
    return [
        ("volumes", f"{summary.committed}/{summary.planned}"),
        *headline(summary),
        ("seconds, this job", f"{summary.wall_s:.0f}"),
    ]


def _fidelity_note(summary: RunSummary) -> str:
    if summary.informed == "own":
        return "MS-SSIM compares with the real volume that mask and slice came from."
    return (
        "MS-SSIM compares with the real volume that the mask came from; the appearance came from "
        "another case, so it is a contrast and not a goal."
    )


def _failure(folder: RunFolder, sample_id: str) -> dict[str, Any]:
    errors = [a.error for a in ledger.read_attempts(folder, sample_id) if a.error]
    failures = ledger.num_failures(folder, sample_id)
    return {
        "sample_id": sample_id,
        "num_failures": failures,
        "quarantined": failures >= ledger.MAX_FAILURES,
        "reason": errors[-1] if errors else "the worker was killed, or never came to it",
    }


def _provenance(identity: RunIdentity) -> list[tuple[str, str]]:
    lines = [("job", identity.job), ("code", identity.code)]
    lines += [(f"{name}", version) for name, version in identity.versions.items()]
    lines += [("weights sha256", identity.weights_sha256)]
    lines += [("settings sha256", identity.settings_sha256)]
    lines += [(name, f"sha256 {digest}") for name, digest in identity.data.items()]
    lines += [(name, str(value)) for name, value in identity.settings.items()]
    return lines


def _template() -> jinja2.Template:
    page = importlib.resources.files("engine.runs.report").joinpath("report.html")
    text = page.read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    return environment.from_string(text)
