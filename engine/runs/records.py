"""What the ledger writes: commit records and attempt records, and what they hold.

Knows no files; `ledger.py` reads and writes them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.config import FrozenConfig


class Measures(FrozenConfig):
    """Numbers of one volume; None where a number has no meaning.

    Attributes:
        seam_ratio: `evaluation.continuity.seam_ratio` of the volume.
        seam_ratio_real: the same z of the mask's own real volume: what anatomy alone gives.
        roughness: `evaluation.continuity.roughness` of the volume.
        roughness_real: the same of the mask's own real volume.
        ms_ssim: to the mask's own real volume, on the model's grid.
        unit: "HU" or "a.u.", of the class means.
        class_means: mean intensity inside each class.
        class_means_real: the same of the mask's own real volume.
        class_quantiles: intensities at evenly spaced quantiles inside each class.
        class_quantiles_real: the same of the mask's own real volume.
        shifted: `evaluation.harmonization.Change` from the mask's own real volume, in `unit`.
        redrawn: of the same change, in `unit`.
    """

    seam_ratio: float | None
    seam_ratio_real: float | None
    roughness: float | None
    roughness_real: float | None
    ms_ssim: float | None
    unit: str
    class_means: dict[str, float]
    class_means_real: dict[str, float]
    class_quantiles: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    class_quantiles_real: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    shifted: float | None = None
    redrawn: float | None = None


class Quality(FrozenConfig):
    """What the quality gate said of a volume (see `quality.py`).

    Attributes:
        flags: what is wrong with it, each in a few words; empty is nothing.
        retries: seeds that were tried before this one.
    """

    flags: tuple[str, ...] = ()
    retries: int = 0


class Commit(FrozenConfig):
    """What a sample's commit record says.

    Attributes:
        files: sha256 of every file of the volume, by name relative to its folder.
        config_sha256: of the settings that decide the volume's content.
        informed_z: slice of the informed case, on its prepared grid.
        target_z: slice of this volume at the same relative height, on the prepared grid.
        joins: z on the prepared grid where slices z - 1 and z come from different windows.
        timings_s: seconds by stage.
        peak_memory_mb: of the worker process until then.
        volume: in an object store, which attempt's volume it is (see `ledger.volume_of`).
    """

    sample_id: str
    case_id: str
    informed_case: str
    informed_z: int
    target_z: int
    seed: int
    attempt: int
    files: dict[str, str]
    config_sha256: str
    weights_sha256: str
    num_windows: int
    joins: tuple[int, ...]
    size_zyx: tuple[int, int, int]
    timings_s: dict[str, float]
    peak_memory_mb: float
    measures: Measures
    quality: Quality = Quality()
    committed_at: float
    volume: str = Field("", pattern=r"^([0-9]+\.[0-9a-f]+\.ome\.zarr)?$")


class Attempt(FrozenConfig):
    """One try at a sample.

    Attributes:
        case_id: whose mask.
        alone: no other sample was in the worker with it.
        outcome: None means that nobody reported how it ended; "lost" that its worker was killed
            with others in it; "rejected" that the quality gate refused the volume for good.
    """

    sample_id: str
    number: int
    started_at: float
    worker: str
    case_id: str = ""
    alone: bool = True
    outcome: Literal["committed", "failed", "interrupted", "lost", "rejected"] | None = None
    error: str | None = None
