"""Pictures of one volume for the report: three views, contours, window joins, informed slice.

Radiological display: the patient's right is on the left of axial and coronal views, anterior is up
in axial and on the left in sagittal views, superior is up. Pixels keep the grid's spacing. Draws
arrays; knows no files.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from engine.volumes.geometry.grids import Orientation
from engine.volumes.labels.contour_class import contour_number, is_organ
from engine.volumes.volume import Array, PreparedCase, Volume

CLASS_COLORS = (
    "#ff9f1c", "#2ec4b6", "#e85d9e", "#ffe066", "#8ac926", "#b388eb", "#4cc9f0", "#f4978e",
)  # fmt: skip
CONTOUR_COLOR = "#7aa7ff"
_JOIN_COLOR = "#ff5a5f"
_INK = "#c9d1d9"
_PAPER = "#0b0d10"
_PANELS_INCH = 12.0
_DPI = 110
_SIDE: dict[str, Any] = {"color": _INK, "fontsize": 8, "ha": "left", "va": "top"}
_GAP = 0.16
_TITLE = 0.24


@dataclass(frozen=True)
class Subject:
    """One volume on its closest RAS+ axes, and where the model's grid lies in it.

    Attributes:
        image: `z y x`, source intensities.
        mask: `z y x` class numbers.
        spacing_mm_zyx: voxel edges.
        frame_mm_zyx: (low, high) edges of the model's grid, in mm from voxel edge 0.
        joins_mm: heights of window joins.
        target_mm: height of the slice that corresponds to the informed slice.
        low: intensity shown black.
        high: intensity shown white.
        class_names: names of classes 1, 2, ...
        contour: the class that was added as body or brain, or None.
    """

    image: Array
    mask: Array
    spacing_mm_zyx: tuple[float, float, float]
    frame_mm_zyx: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    joins_mm: tuple[float, ...]
    target_mm: float
    low: float
    high: float
    class_names: tuple[str, ...]
    contour: str | None = None


def place(
    case: PreparedCase, image: Volume, mask: Volume, joins: Sequence[int], target_z: int
) -> Subject:
    """Bring a native volume, and z of its prepared grid, onto common axes in mm."""
    orientation = Orientation.closest(image.affine, image.size_zyx)
    affine = orientation.canonical_affine(image.affine)
    spacing_xyz = np.linalg.norm(affine[:3, :3], axis=0)
    step = np.linalg.solve(affine, case.affine)
    ratio, origin = np.diagonal(step)[:3], step[:3, 3]

    def edge_mm(axis_xyz: int, index: float) -> float:
        voxel = origin[axis_xyz] + (index - 0.5) * ratio[axis_xyz] + 0.5
        return float(voxel * spacing_xyz[axis_xyz])

    sizes_zyx = case.size_zyx
    frame = [(edge_mm(2 - axis, 0), edge_mm(2 - axis, sizes_zyx[axis])) for axis in range(3)]
    return Subject(
        image=orientation.to_canonical(image.array),
        mask=orientation.to_canonical(mask.array),
        spacing_mm_zyx=(float(spacing_xyz[2]), float(spacing_xyz[1]), float(spacing_xyz[0])),
        frame_mm_zyx=(frame[0], frame[1], frame[2]),
        joins_mm=tuple(edge_mm(2, z) for z in joins),
        target_mm=edge_mm(2, target_z + 0.5),
        low=case.intensity.low,
        high=case.intensity.high,
        class_names=case.class_names,
        contour=case.contour,
    )


def class_color(number: int, is_contour: bool) -> str:
    """Colour of a class's outline; an added body or brain has one of its own."""
    if is_contour:
        return CONTOUR_COLOR
    return CLASS_COLORS[(number - 1) % len(CLASS_COLORS)]


def draw(
    subject: Subject,
    informed: NDArray[np.float32],
    informed_spacing_mm_yx: tuple[float, float],
    titles: tuple[str, str],
) -> bytes:
    """One PNG: views without and with contours; informed slice above the result's same slice.

    Args:
        subject: from `place`.
        informed: `y x` in [-1, 1] on its prepared grid (RAS+ axes).
        informed_spacing_mm_yx: its pixel edges.
        titles: what stands above the informed slice and above the result's slice.
    """
    (z0, z1), (y0, y1), (x0, x1) = subject.frame_mm_zyx
    widths = [x1 - x0, x1 - x0, y1 - y0, x1 - x0]
    height = max(z1 - z0, y1 - y0)
    figure, axes = _grid(widths, height)
    z, y, x = _best_slices(subject)
    for row, contours in enumerate((False, True)):
        _show(axes[row][0], subject, 0, z, contours)
        _show(axes[row][1], subject, 1, y, contours)
        _show(axes[row][2], subject, 2, x, contours)
    for axis, name in zip(axes[0][:3], ("axial", "coronal", "sagittal"), strict=True):
        axis.set_title(name, color=_INK, fontsize=8, pad=4)
    for column, side in enumerate("RRA"):
        axes[0][column].text(0.02, 0.97, side, **_SIDE, transform=axes[0][column].transAxes)
    for column in (1, 2):
        for row in (0, 1):
            _mark_joins(axes[row][column], subject.joins_mm)
    _show_informed(axes[0][3], informed, informed_spacing_mm_yx)
    _show(axes[1][3], subject, 0, _index(subject, subject.target_mm), contours=False)
    for row in (0, 1):
        axes[row][3].set_title(titles[row], color=_INK, fontsize=8, pad=4)
    return _png(figure)


def _grid(widths_mm: Sequence[float], height_mm: float) -> tuple[Figure, list[list[Axes]]]:
    """Two rows of black panels, as wide as what they show; the last column stands apart."""
    scale = _PANELS_INCH / sum(widths_mm)
    inches = [w * scale for w in widths_mm]
    tall = height_mm * scale
    total = (sum(inches) + _GAP * (len(inches) + 2), 2 * (tall + _TITLE) + _GAP)
    figure = Figure(figsize=total, dpi=_DPI, facecolor=_PAPER)
    rows = []
    for row in range(2):
        left, panels = _GAP, []
        for column, width in enumerate(inches):
            left += _GAP if column == len(inches) - 1 else 0.0
            bottom = _GAP / 2 + (1 - row) * (tall + _TITLE)
            panels.append(
                figure.add_axes(
                    (left / total[0], bottom / total[1], width / total[0], tall / total[1]),
                    facecolor="black",
                )
            )
            left += width + _GAP
        rows.append(panels)
    for axis in (a for panels in rows for a in panels):
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    return figure, rows


def _show(axis: Axes, subject: Subject, through: int, index: int, contours: bool) -> None:
    """One plane across axis `through` (z, y, x = 0, 1, 2), framed by the model's grid."""
    up, across = [a for a in range(3) if a != through]
    spacing, frame = subject.spacing_mm_zyx, subject.frame_mm_zyx
    plane = np.take(subject.image, index, axis=through)
    extent = (0.0, plane.shape[1] * spacing[across], 0.0, plane.shape[0] * spacing[up])
    axis.imshow(
        plane, cmap="gray", vmin=subject.low, vmax=subject.high, extent=extent, origin="lower",
        interpolation="bilinear",
    )  # fmt: skip
    if contours:
        _outline(axis, np.take(subject.mask, index, axis=through), extent, subject)
    axis.set_xlim(frame[across][1], frame[across][0])
    middle = sum(frame[up]) / 2
    span = _panel_height(subject)
    axis.set_ylim(middle - span / 2, middle + span / 2)
    axis.set_aspect("equal")


def _outline(
    axis: Axes, plane: Array, extent: tuple[float, float, float, float], subject: Subject
) -> None:
    height, width = plane.shape
    xs = (np.arange(width) + 0.5) * extent[1] / width
    ys = (np.arange(height) + 0.5) * extent[3] / height
    contour = contour_number(subject.class_names, subject.contour)
    for number in range(1, len(subject.class_names) + 1):
        # the added contour's outline runs around all that it holds, organs included
        inside = plane > 0 if number == contour else plane == number
        if inside.any() and not inside.all() and min(plane.shape) > 1:
            color = to_rgb(class_color(number, number == contour))
            axis.contour(xs, ys, inside.astype(float), [0.5], colors=[color], linewidths=0.9)


def _mark_joins(axis: Axes, joins_mm: Sequence[float]) -> None:
    """Short marks at both margins, so that the picture between them stays untouched."""
    for low, high in ((0.0, 0.025), (0.975, 1.0)):
        for height in joins_mm:
            axis.axhline(height, low, high, color=_JOIN_COLOR, linewidth=1.4)


def _show_informed(
    axis: Axes, informed: NDArray[np.float32], spacing_mm_yx: tuple[float, float]
) -> None:
    height, width = (n * s for n, s in zip(informed.shape, spacing_mm_yx, strict=True))
    axis.imshow(
        informed, cmap="gray", vmin=-1, vmax=1, extent=(0, width, 0, height), origin="lower",
        interpolation="bilinear",
    )  # fmt: skip
    axis.set_xlim(width, 0)
    axis.set_ylim(0, height)
    axis.set_aspect("equal")


def _best_slices(subject: Subject) -> tuple[int, int, int]:
    """The slices with most organ in them (most mask, where the mask is only an outline)."""
    organs = is_organ(subject.mask, subject.class_names, subject.contour)
    if not organs.any():
        organs = subject.mask > 0
    z, y, x = (int(organs.sum(axis=a).argmax()) for a in ((1, 2), (0, 2), (0, 1)))
    return z, y, x


def _index(subject: Subject, height_mm: float) -> int:
    last = int(subject.image.shape[0]) - 1
    return min(max(int(height_mm / subject.spacing_mm_zyx[0]), 0), last)


def _panel_height(subject: Subject) -> float:
    (z0, z1), (y0, y1), _ = subject.frame_mm_zyx
    return max(z1 - z0, y1 - y0)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=_PAPER)
    return buffer.getvalue()
