"""The resampling job: new volumes for a data set's own masks (the paper's re-sampling).

Says which cases there are and which rows are wanted; `generate.py` does the rest. Knows no command
line and no way to sample; `jobs/` calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from engine.errors import ConfigError, WeightsError
from engine.log import get_logger
from engine.parallel.own_process import in_own_process
from engine.parallel.start.session import RaySession
from engine.paths import READ, WRITTEN
from engine.preparing.demo_cohort import REMARKS, build_demo_cohort
from engine.runs.evaluating.near_copies import near_copies
from engine.runs.jobs.generate import generate
from engine.runs.jobs.job import Job, JobCases, Outcome
from engine.runs.jobs.settings import GenerationConfig
from engine.runs.making.worker import LoadSampler, load_sampler
from engine.runs.planning.augmenter import Augmenter
from engine.runs.planning.data_digests import data_digest
from engine.runs.planning.gate import gate_of
from engine.runs.planning.informed_slices import find_slices
from engine.runs.planning.inputs import (
    case_facts,
    check_position_model,
    find_data,
    find_folder,
    pick_masks,
    refuse_inside,
    run_place,
)
from engine.runs.planning.rows import CaseFacts, Cases, PlanSettings, plan_rows
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import InformedSource, PlanRow
from engine.storage.backends.find import storage_at
from engine.storage.places import PlaceField
from engine.volumes.prepared.manifest import read_manifest

__all__ = [
    "BrainConfig",
    "Outcome",
    "ResampleConfig",
    "resample",
    "resample_brain",
    "run_place",
]


log = get_logger(__name__)


class ResampleConfig(GenerationConfig):
    """Settings of one resampling run; masks x informed x augmentations x replicas are its plan.

    Attributes:
        data: folder of prepared cases; None makes the embedded demo cohort inside the run folder.
        informed: "own": each mask's own middle slice; "cross": a slice of another patient, at
            random; "fixed": the given `slices`; "generated": drawn for each volume from the
            weights' position model, at the height of "own".
        slices: for "fixed": `CASE:Z` or `FILE.nii.gz:Z`, each giving a version of every mask.
        cases: masks to resample, by case id; None is all of `splits`.
        replicas: volumes a mask, informed source and augmentation.
        augment: change each volume's mask as the paper does: brain tumours are turned, flipped and
            moved inside the brain, abdomens turned.
        augmentations: with `augment`: different augmented masks a mask.
        patient_pattern: regular expression over case ids whose first group names the patient; None
            takes each case as a patient of its own.
        same_patient: "cross" may take another case of the same patient.
    """

    data: Annotated[PlaceField, READ] | None = None
    out: Annotated[PlaceField, WRITTEN] = Path("runs/resample_abdomen")
    informed: tuple[InformedSource, ...] = ("cross",)
    slices: tuple[str, ...] = ()
    cases: tuple[str, ...] | None = None
    replicas: int = Field(1, ge=1, le=10_000)
    augment: bool = False
    augmentations: int = Field(1, ge=1, le=1000)
    patient_pattern: str | None = None
    same_patient: bool = False

    @field_validator("informed", "slices", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> ResampleConfig:
        if not self.informed or len(set(self.informed)) != len(self.informed):
            raise ValueError("informed names at least one source, each once")
        if ("fixed" in self.informed) != bool(self.slices):
            raise ValueError("informed fixed and slices belong together: give both or neither")
        if len(set(self.slices)) != len(self.slices):
            raise ValueError("slices names a slice twice")
        if self.augmentations > 1 and not self.augment:
            raise ValueError("augmentations above 1 needs augment")
        if self.method != "model" and "generated" in self.informed:
            raise ValueError("informed generated is drawn by a model: use own, cross or fixed")
        if self.patient_pattern is not None:
            _compiled(self.patient_pattern)
        return self


def resample(config: ResampleConfig, load: LoadSampler = load_sampler) -> Outcome:
    """Run the job, or the rest of it; see `generate`.

    Args:
        config: settings.
        load: makes the model inside each worker.

    Raises:
        EngineError: the job is refused before work, or its workers cannot go on. Samples that fail
            do not raise: see `Outcome.summary.failed`.
    """
    if config.data is not None:
        refuse_inside(run_place(config.out), [find_data(config.data)])
    outcome = generate(ResampleJob(config), load)
    if config.replicas > 1 and outcome.worked:
        _warn_of_copies(config)
    return outcome


def _warn_of_copies(config: ResampleConfig) -> None:
    """Say so when replicas were hardly worth making."""
    root = run_place(config.out)
    data = root / "cohort" / "prepared" if config.data is None else find_data(config.data)
    found, looked = in_own_process(near_copies, root, data)
    if found:
        log.warning(
            "replicas of %d of %d masks that were looked at are near copies of each other: they "
            "add little to a data set; jobs/evaluate_run.py --metrics diversity looks at all",
            found,
            looked,
        )


class BrainConfig(ResampleConfig):
    """Settings of one resampling run of FLAIR with tumour classes inside the brain contour.

    Attributes: as in `ResampleConfig`; `data` and `weights` must be given.
    """

    weights: Annotated[Path, READ] = Path("weights/brain_flair")
    out: Annotated[PlaceField, WRITTEN] = Path("runs/resample_brain")


def resample_brain(config: BrainConfig, load: LoadSampler = load_sampler) -> Outcome:
    """`resample`, for data that was prepared with the brain contour.

    Raises:
        ConfigError: no data, or data of another kind.
        EngineError: see `resample`.
    """
    if config.data is None:
        raise ConfigError(
            "no data; give --data FOLDER, prepared with jobs/configs/prepare_brain_flair.yaml"
        )
    data = find_data(config.data)
    if read_manifest(data).config.contour != "brain":
        raise ConfigError(
            f"{data}: prepared without the brain contour; prepare it with "
            "jobs/configs/prepare_brain_flair.yaml, or use jobs/resample_abdomen.py"
        )
    return resample(config, load)


@dataclass(frozen=True)
class ResampleJob(Job):
    """See `ResampleConfig`."""

    name = "resample"
    title = "Resampled volumes"
    config: ResampleConfig

    def cases(self, folder: RunFolder, session: RaySession) -> JobCases:
        """The data's cases, or those of the demo."""
        config = self.config
        data = _demo_data(folder, session) if config.data is None else find_data(config.data)
        manifest = read_manifest(data)
        facts = _with_patients(case_facts(manifest, data), config.patient_pattern)
        masks = pick_masks(facts, config.cases, config.splits)
        if "generated" in config.informed:
            check_position_model(find_folder(config.weights, "weights", WeightsError))
        slices, digests = find_slices(config.slices, facts, folder, manifest.config)
        return JobCases(
            data=data,
            manifests={data: manifest},
            facts=facts,
            masks=masks,
            data_sha256={**data_digest(manifest), **{f"slice {n}": d for n, d in digests.items()}},
            slices=slices,
            remarks=REMARKS if config.data is None else {},
        )

    def rows(self, folder: RunFolder, cases: JobCases) -> Iterator[PlanRow]:
        """Masks x informed slices x augmentations x replicas, each judged by the gate."""
        config = self.config
        settings = PlanSettings(
            informed=config.informed,
            replicas=config.replicas,
            seed=config.seed,
            augmentations=config.augmentations if config.augment else 0,
            same_patient=config.same_patient,
            fixed=cases.slices,
            informed_splits=config.informed_splits,
        )
        lenders = Cases.of(cases.facts, settings)
        augmenter = Augmenter(folder.root, cases.data, cases.manifest)
        gate = gate_of(config.gate, folder.root, cases.data)
        for row in plan_rows(cases.facts, cases.masks, settings):
            planned = augmenter.augmented(row) if config.augment else row
            yield gate.judged(planned, lenders)


def _demo_data(folder: RunFolder, session: RaySession) -> Path:
    root = storage_at(folder.root).local
    if root is None:
        raise ConfigError(
            f"{folder.root}: the demo's cohort is made on disk only; give --data, or a folder "
            "with --out"
        )
    return build_demo_cohort(root / "cohort", session.start)


def _with_patients(facts: Mapping[str, CaseFacts], pattern: str | None) -> dict[str, CaseFacts]:
    if pattern is None:
        return dict(facts)
    compiled = _compiled(pattern)
    named = {}
    for name, fact in facts.items():
        match = compiled.search(name)
        if match is None:
            raise ConfigError(f"patient_pattern {pattern!r} does not match the case id {name!r}")
        named[name] = replace(fact, patient=match.group(1))
    return named


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"patient_pattern is no regular expression ({error})") from None
    if compiled.groups < 1:
        raise ValueError("patient_pattern needs a group, for example ([A-Za-z0-9]+)_")
    return compiled
