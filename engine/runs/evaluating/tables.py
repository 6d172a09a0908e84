"""Tables of an evaluation: means over patients with intervals, the run's row and its rivals'.

Knows no files and no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.evaluation.comparisons import COMPARISONS
from engine.evaluation.distribution.intervals import estimate
from engine.evaluation.measures import Measure
from engine.runs.evaluating.populations import Populations
from engine.runs.report.evaluation import Cell, Column, Table
from models.extractors import ST_LPIPS

Samples = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Row -> sample -> {"values": measure -> value, "absent": measure -> reason}."""

_TITLES = {"fidelity": "Fidelity to the real volume of the mask", "texture": "Texture"}
_PERCEPTUAL = Measure(
    "st_lpips", "", 5, "ST-LPIPS",
    f"perceptual distance of axial slices to the real ones ({ST_LPIPS}; not the paper's LPIPS)",
    group="perceptual", best=0.0,
)  # fmt: skip
_OWN_HEIGHT = Measure(
    "own_height", "", 4, "error at the slice's height",
    "mean absolute error at the informed slice's own height and beside it, over that elsewhere; 1 "
    "means that the slice is not used there",
    group="diversity",
)  # fmt: skip
_CALIBRATION = Column(
    name="calibration", title="replicas", digits=3, best=1.0,
    meaning="mean squared difference of two replicas over that to the truth; 1 is calibrated, "
    "0 is one answer",
)  # fmt: skip
_INFLUENCE = Column(
    name="influence", title="influence of the slice", digits=4,
    meaning="mean absolute difference, as intensities in [-1, 1], of two volumes of one mask with "
    "different informed slices (and noise)",
)  # fmt: skip
_FID = (
    "Frechet distance of features of axial (A), coronal (C), sagittal (S) slices to those of the "
    "real cases; biased where slices are few"
)
_KID = "kernel distance of the same features, which is unbiased"
_FRD = "Frechet distance of own radiomic features of axial slices, z-scored by the real cases"
_DISTANCES: tuple[Column, ...] = (
    *(Column(name=f"fid_{v}", title=f"FID-{v.upper()}", meaning=_FID, digits=2, best=0.0)
      for v in "acs"),
    *(Column(name=f"kid_{v}", title=f"KID-{v.upper()}", meaning=_KID, digits=4, best=0.0)
      for v in "acs"),
    Column(name="frd", title="FRD", meaning=_FRD, digits=2, best=0.0),
)  # fmt: skip
_TOO_FEW = "{have} patients; distances between populations are told from {need} on (min_patients)"


def measure_tables(
    samples: Samples, patient_of: Callable[[str], str], groups: Sequence[str], unit: str, seed: int
) -> list[Table]:
    """Fidelity, texture and the perceptual distance.

    Args:
        samples: what the workers found.
        patient_of: sample -> patient.
        groups: that were asked for.
        unit: of intensities.
        seed: of the bootstrap.
    """
    tables = []
    for group in ("fidelity", "texture", "perceptual"):
        entries = [m for m in (*COMPARISONS, _PERCEPTUAL) if m.group == group]
        if group in groups:
            title = _TITLES.get(group, "Perceptual distance")
            tables.append(_table(group, title, entries, samples, patient_of, unit, seed))
    return tables


def diversity_table(
    samples: Samples,
    replicas: Mapping[str, Mapping[str, Any]],
    pairs: Mapping[str, Mapping[str, Any]],
    patient_of: Callable[[str], str],
    own_row: str,
    seed: int,
) -> Table:
    """Use of the informed slice, and replicas.

    Args:
        samples: what the workers found of volumes.
        replicas: sample -> of replicas.
        pairs: sample -> of pairs.
        patient_of: sample -> patient.
        own_row: name of the run's row; rivals have no replicas.
        seed: of the bootstrap.
    """
    table = _table("diversity", "Diversity and use of the informed slice", [_OWN_HEIGHT], samples,
                   patient_of, "", seed)  # fmt: skip
    rows = {name: dict(cells) for name, cells in table.rows.items()}
    for column, found in ((_CALIBRATION, replicas), (_INFLUENCE, pairs)):
        reason = {
            "calibration": "needs two or more replicas of masks with their own slice",
            "influence": "needs volumes of one mask with two informed slices",
        }[column.name]
        by_patient: dict[str, list[float]] = {}
        for sample, values in found.items():
            if values.get(column.name) is not None:
                by_patient.setdefault(patient_of(sample), []).append(float(values[column.name]))
        for name, cells in rows.items():
            mine = by_patient if name == own_row else {}
            why = reason if name == own_row else "a rival is one answer, the same for every seed"
            cells[column.name] = _cell(mine, why, seed)
    columns = (*table.columns, _CALIBRATION, _INFLUENCE)
    return Table(name=table.name, title=table.title, columns=columns, rows=rows)


def distribution_table(
    populations: Populations,
    names: Sequence[str],
    patients: Mapping[str, int],
    min_patients: int,
    reason: str,
) -> Table:
    """FID, KID and FRD of each row; all absent where there are too few patients.

    Args:
        populations: that took the features.
        names: of the rows.
        patients: of the run, and of the real cases.
        min_patients: on both sides.
        reason: why there is no network; "" where there is one.
    """
    columns = _DISTANCES
    fewest = min(patients.values())
    if fewest < min_patients:
        why = _TOO_FEW.format(have=fewest, need=min_patients)
        rows = {name: {c.name: Cell(reason=why) for c in columns} for name in names}
    else:
        rows = populations.rows(list(names))
        if reason:
            for cells in rows.values():
                for column in columns[:-1]:
                    cells[column.name] = Cell(reason=reason)
    return Table(name="distribution", title="Distance to the real population", columns=columns,
                 rows=rows)  # fmt: skip


def _table(
    name: str,
    title: str,
    entries: Sequence[Measure],
    samples: Samples,
    patient_of: Callable[[str], str],
    unit: str,
    seed: int,
) -> Table:
    columns = [c for entry in entries for c in _columns(entry, samples, unit)]
    rows = {
        row: {c.name: _measured(c.name, found, patient_of, seed) for c in columns}
        for row, found in samples.items()
    }
    return Table(name=name, title=title, columns=tuple(columns), rows=rows)


def _columns(entry: Measure, samples: Samples, unit: str) -> list[Column]:
    """One column, or one for each class that any volume has."""
    digits = 1 if entry.unit_in("u") else 3
    shared: dict[str, Any] = {
        "meaning": entry.meaning, "unit": entry.unit_in(unit), "digits": digits, "best": entry.best
    }  # fmt: skip
    if not entry.by_class:
        return [Column(name=entry.name, title=entry.title, **shared)]
    classes: dict[str, None] = {}
    for found in samples.values():
        for sample in found.values():
            classes.update(dict.fromkeys(sample["values"].get(entry.name) or {}))
    return [
        Column(name=f"{entry.name}/{one}", title=f"{entry.title}, {one}", **shared)
        for one in classes
    ]


def _measured(
    name: str,
    found: Mapping[str, Mapping[str, Any]],
    patient_of: Callable[[str], str],
    seed: int,
) -> Cell:
    measure, _, one = name.partition("/")
    by_patient: dict[str, list[float]] = {}
    reasons: dict[str, None] = {}
    for sample, told in found.items():
        value = told["values"].get(measure)
        value = value.get(one) if one and isinstance(value, dict) else value
        if value is not None:
            by_patient.setdefault(patient_of(sample), []).append(float(value))
        else:
            absent = told["absent"]
            reasons.setdefault(absent.get("*") or absent.get(measure) or "not in this volume")
    return _cell(by_patient, "; ".join(reasons), seed)


def _cell(by_patient: Mapping[str, Sequence[float]], reason: str, seed: int) -> Cell:
    found = estimate(by_patient, seed)
    if found is None:
        return Cell(reason=reason or "no volume has it")
    return Cell(
        mean=round(found.mean, 5),
        low=None if found.low is None else round(found.low, 5),
        high=None if found.high is None else round(found.high, 5),
        patients=found.patients,
        volumes=found.volumes,
    )
