"""Distances between populations, from features that come volume by volume.

Keeps sums and a bounded sample of vectors, never a data set. Knows no files and no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.evaluation.distribution.frechet import Moments, frechet_distance
from engine.evaluation.distribution.kernel import kernel_distance
from engine.runs.evaluating.features import RADIOMICS
from engine.runs.evaluating.worker import REAL_ROW
from engine.runs.report.evaluation import Cell

_KEPT = 4000  # vectors for KID
_VIEWS = {"axial": "a", "coronal": "c", "sagittal": "s"}
HALVES = "real, one half against the other"
"""A row of the table: what distance there is between patients of one population."""


@dataclass
class _Part:
    """Features of one population in one view.

    Attributes:
        moments: sums over all vectors.
        kept: (random key, vector) of a sample of them.
    """

    moments: Moments | None = None
    kept: list[tuple[float, NDArray[np.float32]]] = field(default_factory=list)

    def add(self, features: NDArray[np.float32], rng: np.random.Generator) -> None:
        new = Moments.of(features.astype(np.float64))
        self.moments = new if self.moments is None else self.moments + new
        self.kept += zip(rng.random(len(features)).tolist(), features, strict=True)
        if len(self.kept) > 2 * _KEPT:
            self.kept = self._sample()

    def vectors(self) -> NDArray[np.float64]:
        return np.stack([vector for _, vector in self._sample()]).astype(np.float64)

    def _sample(self) -> list[tuple[float, NDArray[np.float32]]]:
        return sorted(self.kept, key=lambda pair: pair[0])[:_KEPT]


class Populations:
    """Takes features row by row; at the end gives the distance of each row to the real cases.

    Args:
        seed: of the sample and of KID's subsets.
    """

    def __init__(self, seed: int) -> None:
        self._rng, self._seed = np.random.default_rng(seed), seed
        self._parts: dict[tuple[str, str], _Part] = {}
        self._patients: dict[str, dict[str, None]] = {}
        self._slices: dict[str, int] = {}

    def add(self, patient: str, features: Mapping[str, NDArray[np.float32]]) -> None:
        """Features of one volume or real case: `row/view` -> `n c`."""
        for name, array in features.items():
            row, _, view = name.partition("/")
            patients = self._patients.setdefault(row, {})
            patients.setdefault(patient, None)
            self._part(row, view).add(array, self._rng)
            if row == REAL_ROW:  # halves by patient
                half = list(patients).index(patient) % 2
                self._part(f"{REAL_ROW} {half}", view).add(array, self._rng)
            if view != RADIOMICS:
                self._slices[row] = self._slices.get(row, 0) + len(array)

    @property
    def slices(self) -> dict[str, int]:
        """Slices of all views behind each row."""
        return dict(self._slices)

    def rows(self, names: list[str]) -> dict[str, dict[str, Cell]]:
        """Distances of each row, and of one half of the real patients to the other."""
        found = {name: self._against(name, REAL_ROW) for name in names}
        found[HALVES] = self._against(f"{REAL_ROW} 0", f"{REAL_ROW} 1")
        return found

    def num_patients(self, row: str) -> int:
        """Patients behind a row."""
        return len(self._patients.get(row, ()))

    def _part(self, row: str, view: str) -> _Part:
        return self._parts.setdefault((row, view), _Part())

    def _against(self, row: str, real: str) -> dict[str, Cell]:
        cells = {}
        for view, letter in _VIEWS.items():
            one, other = self._part(row, view), self._part(real, view)
            cells[f"fid_{letter}"] = self._cell(row, one, other, kernel=False)
            cells[f"kid_{letter}"] = self._cell(row, one, other, kernel=True)
        one, other = self._part(row, RADIOMICS), self._part(real, RADIOMICS)
        scale = self._part(REAL_ROW, RADIOMICS).moments
        cells["frd"] = self._cell(row, _scaled(one, scale), _scaled(other, scale), kernel=False)
        return cells

    def _cell(self, row: str, one: _Part, other: _Part, *, kernel: bool) -> Cell:
        if one.moments is None or other.moments is None:
            return Cell(reason="no slice of this view has enough body, or no features were taken")
        try:
            value = (
                kernel_distance(one.vectors(), other.vectors(), self._seed)
                if kernel
                else frechet_distance(one.moments, other.moments)
            )
        except VolumeError as error:
            return Cell(reason=str(error))
        patients = self.num_patients(row) or self.num_patients(REAL_ROW)
        return Cell(mean=value, patients=patients, volumes=one.moments.count)


def _scaled(part: _Part, real: Moments | None) -> _Part:
    """Moments of features divided by their deviation over the real cases (z-scores, as FRD)."""
    if part.moments is None or real is None or real.count < 2:
        return _Part()
    deviation = np.sqrt(np.maximum(np.diag(real.covariance), 0.0))
    factor = np.where(deviation > 1e-9, 1.0 / np.maximum(deviation, 1e-9), 0.0)
    m = part.moments
    return _Part(Moments(m.count, m.total * factor, m.outer * np.outer(factor, factor)))
