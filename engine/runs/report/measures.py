"""The report's measures: first figures, columns of the table of volumes, and what they mean.

Goes through `engine.evaluation.measures`. Decides nothing and measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.evaluation import measures
from engine.evaluation.measures import Mean, Measure
from engine.runs.report.summary import RunSummary, VolumeSummary

Cell = tuple[str, str]
"""A number for a person, and the one that is shown behind it; "" is none."""


@dataclass(frozen=True)
class MeasureColumn:
    """One column of the table of volumes.

    Attributes:
        title: above it.
        name: of the measure.
        class_name: of which class; "" for a measure without classes.
        digits: behind the point.
        beside: measure that is shown behind it; "" is none.
    """

    title: str
    name: str
    class_name: str
    digits: int
    beside: str

    def cell(self, volume: VolumeSummary) -> Cell:
        """What it holds for one volume."""
        beside = self._value(volume, self.beside) if self.beside else None
        shown = "" if beside is None else number(beside, self.digits)
        return number(self._value(volume, self.name), self.digits), shown

    def _value(self, volume: VolumeSummary, name: str) -> float | None:
        if self.class_name:
            return volume.by_class(name).get(self.class_name)
        return volume.number(name)


def columns(volumes: Sequence[VolumeSummary]) -> list[MeasureColumn]:
    """Of all measures that have one; of one with classes, one for each class of the volumes."""
    found = []
    for measure in measures.MEASURES:
        column = measure.column
        if column is None:
            continue
        title = measure.title if column.title is None else column.title
        for one in _classes(measure.name, volumes) if measure.by_class else [""]:
            heading = ", ".join(part for part in (title, one) if part)
            found.append(MeasureColumn(heading, measure.name, one, column.digits, column.beside))
    return found


def headline(summary: RunSummary) -> list[tuple[str, str]]:
    """(title, number) of each mean that is among the first figures and has a value."""
    unit = summary.volumes[0].unit if summary.volumes else ""
    figures = []
    for measure in measures.MEASURES:
        mean = measure.mean
        if mean is None or mean.headline == "" or (mean.own_only and summary.informed != "own"):
            continue
        figure = _figure(measure, mean, summary, unit)
        if figure is not None:
            figures.append(figure)
    return figures


def meanings(unit: str, *, by_class: bool) -> list[str]:
    """A sentence on each measure that has a column."""
    return [
        f"{_capital(measure.title)}: {measure.meaning}{_in(measure.unit_in(unit))}."
        for measure in measures.MEASURES
        if measure.column is not None and measure.by_class == by_class
    ]


def number(value: float | None, digits: int) -> str:
    """A number for a person, or a dash where it has no meaning."""
    return "–" if value is None else f"{value:.{digits}f}"


def _figure(measure: Measure, mean: Mean, summary: RunSummary, unit: str) -> tuple[str, str] | None:
    title = measure.title if mean.headline is None else mean.headline
    key = mean.name or measure.name
    value = None if measure.by_class else summary.number(key)
    if measure.by_class:
        largest = max(summary.by_class(key).items(), key=lambda item: item[1], default=None)
        if largest is None:
            return None
        title, value = f"{title} ({largest[0]})", largest[1]
    shown = f"{number(value, mean.headline_digits)} {measure.unit_in(unit)}"
    return title, shown.strip()


def _classes(name: str, volumes: Iterable[VolumeSummary]) -> list[str]:
    names: dict[str, None] = {}
    for volume in volumes:
        names.update(dict.fromkeys(volume.by_class(name)))
    return list(names)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _in(unit: str) -> str:
    return f", in {unit}" if unit else ""
