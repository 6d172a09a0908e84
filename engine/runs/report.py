"""The report of a run: one self-contained page for a person to look at.

Reads committed volumes (each checked against its commit record's hashes), draws them and fills
`report.html`. Decides nothing and measures nothing.
"""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from engine.errors import StoreError
from engine.log import get_logger
from engine.runs import ledger
from engine.runs.folder import RunFolder, put
from engine.runs.identity import RunIdentity
from engine.runs.pictures import class_color, draw, place
from engine.runs.plan import PlanRow, stored_at
from engine.runs.records import Commit
from engine.runs.summary import RunSummary, VolumeSummary
from engine.volumes.places import Place
from engine.volumes.store import hash_tree, read_ome_zarr, read_prepared
from engine.volumes.volume import PreparedCase

log = get_logger(__name__)


def write_report(
    folder: RunFolder,
    data: Place,
    identity: RunIdentity,
    rows: Sequence[PlanRow],
    commits: Mapping[str, Commit],
    summary: RunSummary,
    num_pictured: int,
    remarks: Mapping[str, str],
    title: str = "Resampled volumes",
) -> Place:
    """Write report.html.

    Args:
        folder: the run.
        data: prepared cases, for informed slices and display windows.
        identity: content of run.yaml.
        rows: the plan.
        commits: of the volumes that exist.
        summary: of the run.
        num_pictured: volumes to draw, in plan order; the table holds all.
        remarks: what else a reader should know of a case, by case id.
        title: of the page.

    Returns:
        The page's path.

    Raises:
        StoreError: a committed volume or a prepared case is damaged.
    """
    volumes = {volume.sample_id: volume for volume in summary.volumes}
    shown = [row for row in rows if row.sample_id in commits][:num_pictured]
    cards: list[dict[str, str]] = []
    classes: tuple[str, ...] = ()
    window = ""
    for row in shown:
        case = read_prepared(stored_at(folder.root, data, row.mask_source))
        volume = volumes[row.sample_id]
        card = _card(folder, data, case, row, commits[row.sample_id], volume)
        said = [remarks.get(row.case_id, ""), *volume.flags]
        cards.append({**card, "remark": "; ".join(text for text in said if text)})
        classes = max(classes, case.class_names, key=len)
        window = f"{case.intensity.low:g} to {case.intensity.high:g} {case.intensity.unit}"
        log.debug("drew %s", row.sample_id)
    page = _template().render(
        title=title,
        subtitle=_subtitle(summary),
        headline=_headline(summary),
        fidelity_note=_fidelity_note(summary),
        num_cases=summary.num_cases,
        failures=_failures(folder, rows, commits),
        class_names=_class_columns(summary),
        unit=summary.volumes[0].unit if summary.volumes else "",
        volumes=summary.volumes,
        pictured={row.sample_id for row in shown},
        window=window,
        cards=cards,
        num_left_out=len(commits) - len(shown),
        legend=[(name, class_color(n, name)) for n, name in enumerate(classes, start=1)],
        provenance=_provenance(identity),
    )
    put(folder.report, page)
    return folder.report


def _subtitle(summary: RunSummary) -> str:
    parts = [
        f"{summary.committed} of {summary.planned} planned volumes",
        f"informed slices: {summary.informed}",
    ]
    if summary.flagged:
        parts.append(f"{summary.flagged} marked by the quality gate")
    if summary.skipped:
        parts.append(f"{summary.skipped} skipped: their informed slice does not fit the mask")
    if summary.withdrawn:
        parts.append(f"{summary.withdrawn} withdrawn")
    return ", ".join(parts)


def _card(
    folder: RunFolder,
    data: Place,
    case: PreparedCase,
    row: PlanRow,
    commit: Commit,
    volume: VolumeSummary,
) -> dict[str, str]:
    path = ledger.volume_of(folder, commit)
    if hash_tree(path) != commit.files:
        raise StoreError(
            f"{path}: not what its commit record says; jobs/verify_run.py --repair deletes what is "
            "damaged, and the next run makes it anew"
        )
    image, mask, _ = read_ome_zarr(path)
    source = case
    if row.informed_source != row.mask_source:
        source = read_prepared(stored_at(folder.root, data, row.informed_source))
    assert source.image is not None, "plan rows name cases with an image"
    pixel = [float((source.affine[:3, axis] ** 2).sum() ** 0.5) for axis in (1, 0)]
    png = draw(
        place(case, image, mask, commit.joins, commit.target_z),
        source.image[commit.informed_z],
        (pixel[0], pixel[1]),
        ("informed slice", "this volume there"),
    )
    return {
        "sample_id": commit.sample_id,
        "caption": f"mask of {commit.case_id}, appearance of {commit.informed_case} "
        f"(slice {commit.informed_z}){_changes(row)}, {commit.num_windows} windows, "
        f"seam ratio {_number(volume.seam_ratio, 2)}",
        "alt": f"Axial, coronal and sagittal views of {commit.sample_id} without and with mask "
        "contours, and its informed slice beside the same slice of the result",
        "png": base64.b64encode(png).decode(),
        "provenance": f"synthetic · seed {commit.seed} · attempt {commit.attempt} · weights "
        f"{commit.weights_sha256[:12]} · settings {commit.config_sha256[:12]} · "
        f"{' x '.join(str(n) for n in reversed(commit.size_zyx))} voxels (x y z)",
    }


def _changes(row: PlanRow) -> str:
    """What was done to the mask, in a few words."""
    words = ["drawn by hand"] if row.drawn_mask else []
    for change in row.changes:
        what = f"classes {', '.join(map(str, change.classes))}" if change.classes else "mask"
        done = ["removed"] if change.remove else []
        done += ["flipped"] if change.flip_x else []
        if any(change.rotate_deg_zyx):
            done.append("turned " + " ".join(f"{a:.1f}" for a in change.rotate_deg_zyx) + " deg")
        if change.scale_zyx != (1.0, 1.0, 1.0):
            done.append("scaled " + " ".join(f"{s:.2f}" for s in change.scale_zyx))
        if any(change.shift_mm_zyx):
            done.append("moved " + " ".join(f"{s:.1f}" for s in change.shift_mm_zyx) + " mm")
        words.append(f"{change.purpose}: {what} {', '.join(done) or 'unchanged'} (z y x)")
    return f", {'; '.join(words)}" if words else ""


def _headline(summary: RunSummary) -> list[tuple[str, str]]:
    items = [
        ("volumes", f"{summary.committed}/{summary.planned}"),
        ("seam ratio", _number(summary.seam_ratio, 2)),
        ("roughness along z", _number(summary.z_roughness, 2)),
    ]
    if summary.informed == "own":
        items.append(("MS-SSIM to the real volume", _number(summary.ms_ssim, 3)))
    worst = max(summary.class_error_mean_abs.items(), key=lambda item: item[1], default=None)
    if worst:
        unit = summary.volumes[0].unit
        items.append((f"worst mean error ({worst[0]})", f"{worst[1]:.0f} {unit}"))
    return [*items, ("seconds, this job", f"{summary.wall_s:.0f}")]


def _fidelity_note(summary: RunSummary) -> str:
    if summary.informed == "own":
        return "MS-SSIM compares with the real volume that mask and slice came from."
    return (
        "MS-SSIM compares with the real volume that the mask came from; the appearance came from "
        "another case, so it is a contrast and not a goal."
    )


def _failures(
    folder: RunFolder, rows: Sequence[PlanRow], commits: Mapping[str, Commit]
) -> list[dict[str, Any]]:
    failures = []
    for row in rows:
        if row.sample_id in commits:
            continue
        attempts = ledger.read_attempts(folder, row.sample_id)
        number = ledger.num_failures(folder, row.sample_id)
        told = [a.error for a in attempts if a.error]
        failures.append(
            {
                "sample_id": row.sample_id,
                "num_failures": number,
                "quarantined": number >= ledger.MAX_FAILURES,
                "reason": told[-1] if told else "the worker was killed, or never came to it",
            }
        )
    return failures


def _class_columns(summary: RunSummary) -> list[str]:
    names: dict[str, None] = {}
    for volume in summary.volumes:
        names.update(dict.fromkeys(volume.class_means))
    return list(names)


def _provenance(identity: RunIdentity) -> list[tuple[str, str]]:
    lines = [("job", identity.job), ("code", identity.code)]
    lines += [(f"{name}", version) for name, version in identity.versions.items()]
    lines += [("weights sha256", identity.weights_sha256)]
    lines += [("settings sha256", identity.settings_sha256)]
    lines += [(name, f"sha256 {digest}") for name, digest in identity.data.items()]
    lines += [(name, str(value)) for name, value in identity.settings.items()]
    return lines


def _template() -> jinja2.Template:
    text = importlib.resources.files("engine.runs").joinpath("report.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = _number
    return environment.from_string(text)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
