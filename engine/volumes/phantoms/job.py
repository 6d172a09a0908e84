"""Settings of jobs/make_phantoms.py, and which cohort they make: abdomen phantoms or heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from engine.config import FrozenConfig
from engine.errors import ConfigError
from engine.paths import READ, WRITTEN
from engine.volumes.heads.anatomy import list_label_maps
from engine.volumes.heads.cohort import HeadConfig, write_heads
from engine.volumes.heads.contrasts import Contrast
from engine.volumes.phantoms.cohort import COHORT_SEED, write_cohort
from engine.volumes.phantoms.phantom import PhantomConfig

_NUM_PHANTOMS = 8


class CohortJob(FrozenConfig):
    """Settings of jobs/make_phantoms.py.

    Attributes:
        out: data set folder to write; required.
        kind: "abdomen" (CT, from nothing but the seed) or "head" (MR-like, from label maps).
        num_phantoms: patients; None makes 8 abdomens, or each head of the label maps.
        first_index: index of the first; a cohort can be made in parts.
        seed: the cohort.
        phantom: kind abdomen: grid and site.
        label_maps: kind head, required: folder with train/*.nii.gz and test/*.nii.gz.
        contrast: kind head: "t1", "t2" or "flair".
        site: kind head: "A", "B", "C" or "D" for all; None deals them out.
        stripped: kind head: 0 outside the brain, or the whole head.
        lesions: kind head: a tumour in every patient, in BraTS's classes.
        growth: kind head: of the tumours, 0 to 1 (grown).
        slice_mm: kind head: slice thickness instead of the site's.
        individuals: kind head: patients made of each label map.
        draw: kind head: of texture and noise; another number scans the same patients again.
    """

    out: Annotated[Path, WRITTEN] | None = None
    kind: Literal["abdomen", "head"] = "abdomen"
    num_phantoms: int | None = Field(None, ge=1, le=100_000)
    first_index: int = Field(0, ge=0)
    seed: int = Field(COHORT_SEED, ge=0)
    phantom: PhantomConfig = PhantomConfig()
    label_maps: Annotated[Path, READ] | None = None
    contrast: Contrast = "flair"
    site: str | None = None
    stripped: bool = True
    lesions: bool = False
    growth: float = Field(1.0, gt=0, le=1)
    slice_mm: float | None = Field(None, gt=0, le=20)
    individuals: int = Field(1, ge=1, le=10_000)
    draw: int = Field(0, ge=0)

    @property
    def head(self) -> HeadConfig:
        """What the heads look like."""
        return HeadConfig(**{name: getattr(self, name) for name in HeadConfig.model_fields})


def make_cohort(job: CohortJob, on_case: Callable[[str], None] | None = None) -> list[str]:
    """Write the cohort that the settings describe; cases that are there already are kept.

    Args:
        job: settings, with absolute paths.
        on_case: called with each case id when its files are there.

    Returns:
        Case ids.

    Raises:
        ConfigError: no folder to write to, or settings of the other kind.
        LayoutError: the folder holds another data set, or there are no label maps.
        VolumeError: a label map is none.
    """
    if job.out is None:
        raise ConfigError("no folder to write to; give --out FOLDER")
    _refuse_other_kind(job)
    if job.kind == "abdomen":
        count = job.num_phantoms or _NUM_PHANTOMS
        indices = range(job.first_index, job.first_index + count)
        return write_cohort(job.out, indices, job.seed, job.phantom, on_case)
    if job.label_maps is None:
        raise ConfigError("--kind head is made from label maps; give --label-maps FOLDER")
    files = list_label_maps(job.label_maps)
    cases = [(file, individual) for file in files for individual in range(job.individuals)]
    last = None if job.num_phantoms is None else job.first_index + job.num_phantoms
    cases = cases[job.first_index : last]
    if not cases:
        raise ConfigError(
            f"--first-index {job.first_index}: there are {len(files)} label maps and "
            f"{job.individuals} individuals of each; give a smaller index"
        )
    return write_heads(job.out, cases, job.head, job.seed, on_case)


def _refuse_other_kind(job: CohortJob) -> None:
    """A setting that would do nothing is a mistake."""
    heads = (*HeadConfig.model_fields, "individuals", "label_maps")
    foreign = heads if job.kind == "abdomen" else ("phantom",)
    fields = CohortJob.model_fields
    changed = [name for name in foreign if getattr(job, name) != fields[name].default]
    if changed:
        options = ", ".join("--" + name.replace("_", "-") for name in changed)
        other = "head" if job.kind == "abdomen" else "abdomen"
        raise ConfigError(f"{options} says nothing of --kind {job.kind}; give --kind {other}")
