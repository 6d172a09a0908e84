"""What all workers of a job share; it travels to them once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine.evaluation.expectations import CohortStatistics
from engine.runs.making.quality import QualityConfig
from engine.runs.making.voxels.stored import Stored
from engine.runs.planning.gate import GateConfig
from engine.sampling.config import SamplingConfig
from engine.storage.places import Place


@dataclass(frozen=True)
class WorkerTask:
    """What all workers of a job share.

    Attributes:
        root: the run folder.
        data: folder of prepared cases.
        weights: folder of the model.
        sampling: how to sample.
        settings_sha256: of the settings and data, for the commit records.
        weights_sha256: of the weights, for the commit records.
        code: commit of the code, for the provenance.
        num_threads: threads to compute with.
        quality: what a volume must be like.
        cohort: what real volumes are like.
        gate: what a generated informed slice must be like.
        rows_at_once: rows a worker holds, so that its batch stays full; bounds its memory.
        stored: how intensities are kept.
        private: whether only this user may read what is written.
        lock: number of the run's lock that the job holds; 0 is unknown.
    """

    root: Place
    data: Place
    weights: Path
    sampling: SamplingConfig
    settings_sha256: str
    weights_sha256: str
    code: str
    num_threads: int
    quality: QualityConfig = field(default_factory=QualityConfig)
    cohort: CohortStatistics = field(default_factory=CohortStatistics)
    gate: GateConfig = field(default_factory=GateConfig)
    rows_at_once: int = 1
    stored: Stored = "float32"
    private: bool = False
    lock: int = 0
