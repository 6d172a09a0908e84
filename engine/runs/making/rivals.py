"""Rivals in a run: volumes made without a model, by the same plan, gates, records and report.

Reads for `engine.sampling.rivals` what it looks at: the training cases, and another draw of a case.
Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.sampling.config import SamplingConfig
from engine.sampling.rivals.sampler import Background, RivalSampler
from engine.storage.places import Place
from engine.volumes.prepared.store import read_prepared
from engine.volumes.volume import PreparedCase

MAX_TRAINING_CASES = 64
"""That an atlas is made of, evenly spread."""


@dataclass(frozen=True)
class LoadRival:
    """A `LoadSampler` of a rival; travels to the workers.

    Attributes:
        method: name in `engine.sampling.rivals.methods.RIVALS`.
        training: (patient, place) of each training case.
        patients: case -> patient.
        num_classes: classes beside background.
        contour: number of the contour's class; 0 is none.
        redrawn: folder of prepared cases of another draw; None but for "redrawn".
    """

    method: str
    training: tuple[tuple[str, Place], ...]
    patients: Mapping[str, str] = field(default_factory=dict)
    num_classes: int = 0
    contour: int = 0
    redrawn: Place | None = None

    def __call__(self, weights: Path, config: SamplingConfig, device: str) -> RivalSampler:
        """The sampler; what it is given is a model's and does not concern it."""
        background = Background(
            self._cases,
            self.patients,
            self.num_classes,
            self.contour,
            None if self.redrawn is None else self._another_scan,
        )
        return RivalSampler(self.method, background)

    def _cases(self) -> Iterator[tuple[str, PreparedCase]]:
        for patient, place in self.training:
            yield patient, read_prepared(place)

    def _another_scan(self, case_id: str) -> PreparedCase:
        assert self.redrawn is not None
        return read_prepared(self.redrawn / f"{case_id}.zarr")
