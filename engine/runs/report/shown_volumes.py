"""The report's pictures: committed volumes, each checked against its record's hashes, and drawn.

Called `in_own_process`: reading volumes and drawing take memory that a driver need not keep.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.errors import StoreError
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow, stored_at
from engine.runs.record.records import Commit
from engine.runs.report.measures import number
from engine.runs.report.summary import VolumeSummary
from engine.storage.places import Place
from engine.volumes.prepared.store import read_prepared
from engine.volumes.store import hash_tree, read_informed, read_ome_zarr
from engine.volumes.volume import PreparedCase


@dataclass(frozen=True)
class ShownVolumes:
    """What the report shows of a few volumes.

    Attributes:
        volumes: texts and picture of each.
        legend: (class name, colour).
        window: intensities shown, in words.
    """

    volumes: list[dict[str, str]]
    legend: list[tuple[str, str]]
    window: str


def show_volumes(
    folder: RunFolder,
    data: Place,
    shown: Sequence[tuple[PlanRow, VolumeSummary]],
    remarks: Mapping[str, str],
) -> ShownVolumes:
    """Draw volumes.

    Args:
        folder: the run.
        data: prepared cases, for informed slices and display windows.
        shown: what to draw, in this order.
        remarks: what else a reader should know of a case, by case id.

    Raises:
        StoreError: a committed volume or a prepared case is damaged.
    """
    from engine.runs.report.pictures import (
        class_color,  # not at the top: who only names this, draws not
    )

    volumes: list[dict[str, str]] = []
    classes: tuple[str, ...] = ()
    contour: str | None = None
    window = ""
    for row, volume in shown:
        case = read_prepared(stored_at(folder.root, data, row.mask_source))
        commit = ledger.read_commit(folder, row.sample_id)
        if commit is None:
            continue
        remark = [remarks.get(row.case_id, ""), *volume.flags, *volume.lost]
        drawn = _show_volume(folder, data, case, row, commit, volume)
        volumes.append({**drawn, "remark": "; ".join(text for text in remark if text)})
        if len(case.class_names) > len(classes):
            classes, contour = case.class_names, case.contour
        window = f"{case.intensity.low:g} to {case.intensity.high:g} {case.intensity.unit}"
    legend = [(name, class_color(n, name == contour)) for n, name in enumerate(classes, start=1)]
    return ShownVolumes(volumes, legend, window)


def _show_volume(
    folder: RunFolder,
    data: Place,
    case: PreparedCase,
    row: PlanRow,
    commit: Commit,
    volume: VolumeSummary,
) -> dict[str, str]:
    from engine.runs.report.pictures import draw, place

    path = ledger.volume_of(folder, commit)
    if hash_tree(path) != commit.files:
        raise StoreError(
            f"{path}: not what its commit record says; jobs/verify_run.py --repair deletes what is "
            "damaged, and the next run makes it anew"
        )
    image, mask, _ = read_ome_zarr(path)
    source = case
    if row.informed == "generated":
        informed = read_informed(path)
    else:
        if row.informed_source != row.mask_source:
            source = read_prepared(stored_at(folder.root, data, row.informed_source))
        assert source.image is not None, "plan rows name cases with an image"
        informed = source.image[commit.informed_z]
    pixel = [float((source.affine[:3, axis] ** 2).sum() ** 0.5) for axis in (1, 0)]
    png = draw(
        place(case, image, mask, commit.joins, commit.target_z),
        informed,
        (pixel[0], pixel[1]),
        ("informed slice", "this volume there"),
    )
    return {
        "sample_id": commit.sample_id,
        "caption": f"mask of {commit.case_id}, appearance of {commit.informed_case} "
        f"(slice {commit.informed_z}){_changes(row)}, {commit.num_windows} windows, "
        f"seam ratio {number(volume.number('seam_ratio'), 2)}",
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
