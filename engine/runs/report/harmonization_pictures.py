"""Pictures of a harmonized volume: before, after and reference, each on its own grid and upright.

Reads prepared cases and committed volumes, one of each at a time.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow, stored_at
from engine.runs.record.records import Commit
from engine.storage.places import Place
from engine.volumes.geometry.grids import Orientation
from engine.volumes.prepared.prepare import to_native
from engine.volumes.prepared.store import read_prepared
from engine.volumes.store import read_ome_zarr
from engine.volumes.volume import Array, PreparedCase, Volume, spacing_of

_PAPER, _INK = "#0b0d10", "#c9d1d9"


def before_and_after(folder: RunFolder, data: Place, row: PlanRow, commit: Commit) -> bytes:
    """Before, after and reference at its height, then before and after as coronal views: a PNG.

    Raises:
        StoreError: a case or the volume is missing or damaged.
    """
    case = read_prepared(stored_at(folder.root, data, row.mask_source))
    reference = read_prepared(stored_at(folder.root, data, row.informed_source))
    assert reference.image is not None, "plan rows name slices of cases with an image"
    image, _, _ = read_ome_zarr(ledger.volume_of(folder, commit))
    after = _View.of(image, case, commit.target_z)
    shown = _View.of(to_native(reference, reference.image), reference, row.informed_z)
    before = after._replace(array=np.full(after.array.shape, case.intensity.background))
    if case.image is not None:
        before = _View.of(to_native(case, case.image), case, commit.target_z)
    views = {"before": before, "after": after, "reference": shown}
    planes = {name: view.array[view.z] for name, view in views.items()}
    aspects = [v.spacing_mm_zyx[1] / v.spacing_mm_zyx[2] for v in views.values()]
    for name in ("before", "after"):
        view = views[name]
        planes[f"{name}, coronal"] = view.array[:, view.y]
        aspects.append(view.spacing_mm_zyx[0] / view.spacing_mm_zyx[2])
    return _draw(planes, (reference.intensity.low, reference.intensity.high), aspects)


class _View(NamedTuple):
    """A volume on its own grid, turned so that the patient stands upright.

    Attributes:
        array: `z y x`, axes towards head, front and right or left as in prepared cases.
        spacing_mm_zyx: voxel edges.
        z: slice that is shown.
        y: coronal plane that is shown.
    """

    array: Array
    spacing_mm_zyx: tuple[float, float, float]
    z: int
    y: int

    @classmethod
    def of(cls, volume: Volume, case: PreparedCase, z: int) -> _View:
        """A volume on the case's own grid, at a slice of its prepared one."""
        orientation = Orientation.closest(volume.affine, volume.size_zyx)
        affine = orientation.canonical_affine(volume.affine)
        array = orientation.to_canonical(volume.array)
        step = np.linalg.solve(affine, case.affine)
        at = (step[2, 2] * z + step[2, 3], step[1, 1] * (case.size_zyx[1] // 2) + step[1, 3])
        place = (min(max(round(i), 0), n - 1) for i, n in zip(at, array.shape[:2], strict=True))
        return cls(array, spacing_of(affine), *place)


def _draw(
    planes: Mapping[str, Array],
    window: tuple[float, float],
    aspects: Sequence[float],
) -> bytes:
    from matplotlib.figure import Figure  # not at the top: the driver only names this module

    figure = Figure(figsize=(2.4 * len(planes), 2.9), dpi=100, facecolor=_PAPER)
    for number, ((title, plane), aspect) in enumerate(zip(planes.items(), aspects, strict=True)):
        axis = figure.add_subplot(1, len(planes), number + 1, facecolor="black")
        axis.imshow(
            plane[:, ::-1], cmap="gray", vmin=window[0], vmax=window[1], origin="lower",
            aspect=aspect, interpolation="bilinear",
        )  # fmt: skip
        axis.set_title(title, color=_INK, fontsize=8)
        axis.set_axis_off()
    figure.tight_layout(pad=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=_PAPER)
    return buffer.getvalue()
