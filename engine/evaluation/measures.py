"""The table of measures: every number that is taken of a volume, in one place.

Commit records, the table of volumes, the summary, the report's page and the quality gate go through
this table; a new measure is one entry here. What is computed from voxels is kept in the commit
record; what needs the whole run is derived from the records. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine.evaluation.checks import Check, check_organs, check_seams
from engine.evaluation.fidelity import mean_errors
from engine.evaluation.subject import Scan, Subject
from engine.evaluation.values import Value, VolumeMeasures

INTENSITY = "intensity"
"""Unit of a measure that is an intensity: the volume's own, HU or a.u."""


@dataclass(frozen=True)
class RunFacts:
    """What a measure that is derived from records knows of the run and of the volume.

    Attributes:
        real: mean of each measure of real volumes over the run's cases, each case once.
        is_own: the volume has its mask's own slice and an unchanged mask, so that the real volume
            is the truth.
    """

    real: Mapping[str, float | None]
    is_own: bool


@dataclass(frozen=True)
class Column:
    """A measure's column in the page's table of volumes; one for each class, if it has classes.

    Attributes:
        title: above the column; None takes the measure's, and "" leaves only the class.
        digits: behind the point.
        beside: measure that is shown behind it, after a stroke.
    """

    title: str | None = None
    digits: int = 2
    beside: str = ""


@dataclass(frozen=True)
class Mean:
    """A measure's mean over the volumes of a run.

    Attributes:
        name: its key in summary.json; "" takes the measure's.
        digits: that are kept.
        absolute: the mean is that of magnitudes.
        headline: its title among the page's first figures; None takes the measure's, and "" leaves
            it out. Of a measure with classes, the class with the largest mean is shown.
        headline_digits: behind the point.
        own_only: a headline only where all volumes have their mask's own slice.
    """

    name: str = ""
    digits: int = 4
    absolute: bool = False
    headline: str | None = None
    headline_digits: int = 2
    own_only: bool = False


@dataclass(frozen=True)
class Measure:
    """One number of a volume, or one for each class of its mask.

    Attributes:
        name: its key in every file.
        unit: "" for a ratio, `INTENSITY`, or a unit.
        digits: behind the point, in records.
        title: for a person.
        meaning: one sentence without its point, for a person.
        compute: takes it from voxels, when the volume is made.
        derive: takes it from the volume's record, when the run is summarized. A measure has one of
            the two.
        by_class: the value is a number for each class, or several; not one number.
        of_real: the number is of the real volume alone, and the same for all volumes of a case.
        listed: stands in volumes.jsonl and in the volumes of summary.json.
        column: on the page; None leaves it out.
        mean: in the summary; None leaves it out.
        check: of the quality gate.
        group: what it tells of, in the tables of an evaluated run (`comparisons.py`).
        best: of its value: 1 is what the real volume has or what equals it, 0 is no error.
        absent: why a volume may lack it.
    """

    name: str
    unit: str
    digits: int
    title: str
    meaning: str
    compute: Callable[[Subject], Value] | None = None
    derive: Callable[[VolumeMeasures, RunFacts], Value] | None = None
    by_class: bool = False
    of_real: bool = False
    listed: bool = True
    column: Column | None = field(default_factory=Column)
    mean: Mean | None = field(default_factory=Mean)
    check: Check | None = None
    group: str = ""
    best: float | None = None
    absent: str = ""

    def rounded(self, value: Value) -> Value:
        """The value as records keep it; a number that is not finite has no meaning."""
        if isinstance(value, dict):
            return {name: self._round_class(one) for name, one in value.items()}  # type: ignore[return-value]
        return round(value, self.digits) if value is not None and math.isfinite(value) else None

    def _round_class(self, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if isinstance(value, tuple):
            return tuple(round(one, self.digits) for one in value)
        return round(value, self.digits)

    def unit_in(self, unit: str) -> str:
        """Its unit, where intensities are in `unit`."""
        return unit if self.unit == INTENSITY else self.unit


def measure_volume(subject: Subject) -> VolumeMeasures:
    """Everything that is computed from a volume's voxels."""
    values = {m.name: m.rounded(m.compute(subject)) for m in MEASURES if m.compute is not None}
    return VolumeMeasures(unit=subject.made.intensity.unit, values=values)


def listed_values(measured: VolumeMeasures, facts: RunFacts) -> dict[str, Value]:
    """What the table of volumes holds of one volume; a record may lack what is newer than it."""
    values: dict[str, Value] = {}
    for measure in MEASURES:
        if measure.listed:
            value = measured.values.get(measure.name, {} if measure.by_class else None)
            if measure.derive is not None:
                value = measure.rounded(measure.derive(measured, facts))
            values[measure.name] = value
    return values


def _of_real(compute: Callable[[Scan], Value], empty: Value = None) -> Callable[[Subject], Value]:
    """The same of the mask's own real volume."""
    return lambda subject: empty if subject.real is None else compute(subject.real)


def _seam_ratio_real(subject: Subject) -> float | None:
    return None if subject.real is None else subject.real.seam_ratio(subject.joins)


def _z_roughness(measured: VolumeMeasures, facts: RunFacts) -> float | None:
    own, real = measured.number("roughness"), facts.real.get("roughness_real")
    return own / real if own is not None and real else None


def _class_errors(measured: VolumeMeasures, facts: RunFacts) -> dict[str, float]:
    if not facts.is_own:
        return {}
    return mean_errors(measured.by_class("class_means"), measured.by_class("class_means_real"))


MEASURES: tuple[Measure, ...] = (
    Measure(
        "seam_ratio", "", 5, "seam ratio",
        "mean difference of neighbouring slices at window joins over that elsewhere, inside the "
        "body; 1 means that joins cannot be told from other slices",
        compute=lambda s: s.made.seam_ratio(s.joins),
        check=check_seams,
    ),
    Measure(
        "seam_ratio_real", "", 5, "seam ratio of the real volume",
        "the seam ratio of the mask's own real volume at the same z: what anatomy alone gives",
        compute=_seam_ratio_real, of_real=True, column=None, mean=Mean(headline=""),
    ),
    Measure(
        "roughness", "", 5, "roughness",
        "through-plane over in-plane gradient inside the body",
        compute=lambda s: s.made.roughness,
        listed=False, column=None, mean=None,
    ),
    Measure(
        "roughness_real", "", 5, "roughness of the real volume",
        "the roughness of the mask's own real volume",
        compute=_of_real(lambda real: real.roughness),
        of_real=True, listed=False, column=None, mean=None,
    ),
    Measure(
        "z_roughness", "", 4, "roughness along z",
        "through-plane over in-plane gradient, relative to the real volumes of this run",
        derive=_z_roughness, column=Column("roughness"),
    ),
    Measure(
        "ms_ssim", "", 5, "MS-SSIM",
        "multi-scale structural similarity to the real volume of the same mask; 1 is equal",
        compute=lambda s: s.ms_ssim, column=Column(digits=3),
        mean=Mean(headline="MS-SSIM to the real volume", headline_digits=3, own_only=True),
    ),
    Measure(
        "class_means", INTENSITY, 3, "class columns",
        "mean intensity in the generated volume / in the mask's own real volume",
        compute=lambda s: s.made.means, by_class=True,
        column=Column("", 0, beside="class_means_real"), mean=None, check=check_organs,
    ),
    Measure(
        "class_means_real", INTENSITY, 3, "class means of the real volume",
        "mean intensity of each class in the mask's own real volume",
        compute=_of_real(lambda real: real.means, {}), by_class=True, of_real=True,
        column=None, mean=None,
    ),
    Measure(
        "class_errors", INTENSITY, 2, "mean errors",
        "generated minus real mean of each class, where the real volume is the truth",
        derive=_class_errors, by_class=True, column=None,
        mean=Mean("class_error_mean_abs", 2, absolute=True, headline="worst mean error",
                  headline_digits=0),
    ),
    Measure(
        "class_quantiles", INTENSITY, 2, "class quantiles",
        "intensities at evenly spaced quantiles inside each class",
        compute=lambda s: s.made.quantiles, by_class=True, listed=False, column=None, mean=None,
    ),
    Measure(
        "class_quantiles_real", INTENSITY, 2, "class quantiles of the real volume",
        "the same of the mask's own real volume",
        compute=_of_real(lambda real: real.quantiles, {}), by_class=True, of_real=True,
        listed=False, column=None, mean=None,
    ),
    Measure(
        "shifted", INTENSITY, 3, "shifted",
        "mean change of a voxel that a change of appearance explains",
        compute=lambda s: None if s.change is None else s.change.shifted,
        listed=False, column=None, mean=None,
    ),
    Measure(
        "redrawn", INTENSITY, 3, "redrawn",
        "mean change of a voxel that no change of appearance explains",
        compute=lambda s: None if s.change is None else s.change.redrawn,
        listed=False, column=None, mean=None,
    ),
)  # fmt: skip
"""All measures, in the order of tables and flags."""
