"""The plot of an evaluation: each measure's means with intervals, the run above its rivals, as SVG.

Imports matplotlib when it draws.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from engine.runs.report.evaluation import Cell, Column, Table

_PER_ROW = 3
_MOST = 12
_RUN, _RIVAL = "#0969da", "#8c959f"


def draw_tables(tables: Sequence[Table]) -> str:
    """Small multiples of the tables' columns that are not by class; "" without any number."""
    wanted = [
        (column, {name: cells[column.name] for name, cells in table.rows.items()})
        for table in tables
        for column in table.columns
        if "/" not in column.name
    ]
    wanted = [(c, r) for c, r in wanted if any(v.mean is not None for v in r.values())][:_MOST]
    if not wanted:
        return ""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    num_rows = -(-len(wanted) // _PER_ROW)
    figure, axes = plt.subplots(
        num_rows, _PER_ROW, figsize=(11, 1.5 * num_rows + 0.4), squeeze=False, layout="constrained"
    )
    for place in axes.flat[len(wanted) :]:
        place.set_visible(False)
    for place, (column, rows) in zip(axes.flat, wanted, strict=False):
        _one(place, column, rows)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()


def _one(place: object, column: Column, rows: dict[str, Cell]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(place, Axes)
    names = list(rows)
    for height, name in enumerate(reversed(names)):
        cell = rows[name]
        if cell.mean is None:
            continue
        color = _RUN if name == names[0] else _RIVAL
        place.plot([cell.mean], [height], "o", color=color, markersize=5)
        if cell.low is not None and cell.high is not None:
            place.plot([cell.low, cell.high], [height, height], "-", color=color, linewidth=1.5)
    if column.best is not None:
        place.axvline(column.best, color="#1a7f37", linewidth=0.8, linestyle=":")
    place.set_yticks(range(len(names)), list(reversed(names)), fontsize=7)
    place.tick_params(axis="x", labelsize=7)
    place.set_ylim(-0.6, len(names) - 0.4)
    unit = f" ({column.unit})" if column.unit else ""
    place.set_title(f"{column.title}{unit}", fontsize=8, loc="left")
