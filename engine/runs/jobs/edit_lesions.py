"""The counterfactual job (the paper's Fig. 3): the same patient with another lesion.

A class's component is moved, scaled or removed, or a drawn mask takes the place of the case's own.
The appearance is the patient's own slice that shows neither the old lesion nor the new one, so that
mask and slice do not contradict each other. Knows no command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from engine.errors import ConfigError, RunError, SamplingError
from engine.log import get_logger
from engine.parallel.start.session import RaySession
from engine.paths import READ, WRITTEN
from engine.runs.jobs.generate import generate
from engine.runs.jobs.job import Job, JobCases, Outcome
from engine.runs.jobs.settings import GenerationConfig
from engine.runs.making.worker import LoadSampler, load_sampler
from engine.runs.planning.data_digests import data_digest
from engine.runs.planning.gate import gate_of
from engine.runs.planning.inputs import case_facts, find_data, pick_masks, refuse_inside, run_place
from engine.runs.planning.rows import Cases, FixedSlice, PlanSettings, plan_rows
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import hash_file
from engine.runs.record.plan import PlanRow
from engine.storage.backends.find import storage_at
from engine.storage.places import Place, PlaceField
from engine.volumes.labels.contour_class import organ_names
from engine.volumes.labels.drawn import Drawing, Numbering, drawn_mask, drawn_meaning
from engine.volumes.mask_changes import MaskChange, apply_change
from engine.volumes.nifti import check_same_grid, write_nifti
from engine.volumes.prepared.manifest import PreparedManifest, read_manifest
from engine.volumes.prepared.prepare import mask_to_prepared
from engine.volumes.prepared.store import read_prepared
from engine.volumes.reading import read_labels
from engine.volumes.volume import PreparedCase, Volume

log = get_logger(__name__)


class EditConfig(GenerationConfig):
    """Settings of one run of counterfactuals.

    Attributes:
        data: folder of prepared cases.
        cases: to edit, by case id; None is every case of `splits` that has the lesion.
        classes: of the lesion, by name; None is all but the body or brain contour.
        component: 1 for its largest connected component, 2 for the second; None is all of it.
        shift_mm_zyx: move it so far towards the head, the front and the patient's right (negative:
            the feet, the back, the left).
        scale: grow it about its centre; 1.5 is half as long again in every direction.
        remove: the lesion becomes what surrounds it.
        drawn: a mask file on the case's own grid, for one case: a whole mask, or with `drawn_class`
            one structure.
        drawn_class: the class of all drawn voxels; they are laid over the case's own mask.
        drawn_labels: what the numbers of a whole mask are: the data set's "raw" labels, or
            "classes" 1, 2, ... as an export has them.
        drawn_whole: take `drawn` as the whole mask although classes of the case are not in it.
        keep_original: make a volume with the unedited mask, too, to compare with.
        replicas: volumes a mask.
    """

    out: Annotated[PlaceField, WRITTEN] = Path("runs/edit_lesions")
    data: Annotated[PlaceField, READ] | None = None
    cases: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    component: int | None = Field(None, ge=1)
    shift_mm_zyx: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = Field(1.0, ge=0.1, le=10.0)
    remove: bool = False
    drawn: Annotated[Path, READ] | None = None
    drawn_class: str | None = None
    drawn_labels: Numbering = "raw"
    drawn_whole: bool = False
    keep_original: bool = False
    replicas: int = Field(1, ge=1, le=1000)

    @property
    def changes_geometry(self) -> bool:
        """Whether the lesion is moved or scaled."""
        return self.scale != 1.0 or any(self.shift_mm_zyx)

    @property
    def drawing(self) -> Drawing:
        """How the drawn mask is meant."""
        return Drawing(self.drawn_class, self.drawn_labels, self.drawn_whole, self.classes or ())

    @model_validator(mode="after")
    def _one_edit(self) -> EditConfig:
        edits = [self.changes_geometry, self.remove, self.drawn is not None]
        if sum(edits) > 1:
            raise ValueError("give one edit: a shift and scale, remove, or drawn")
        if self.drawn is not None and (self.cases is None or len(self.cases) != 1):
            raise ValueError("drawn is a mask of one case: name it with cases")
        described = self.drawn_class is not None or self.drawn_whole or self.drawn_labels != "raw"
        if described and self.drawn is None:
            raise ValueError("drawn_class, drawn_labels and drawn_whole say what drawn is; give it")
        if self.drawn_class is not None and (self.drawn_whole or self.drawn_labels != "raw"):
            raise ValueError("drawn_class is one structure: without drawn_whole and drawn_labels")
        return self


def edit_lesions(config: EditConfig, load: LoadSampler = load_sampler) -> Outcome:
    """Run the job, or the rest of it; see `generate`.

    Raises:
        EngineError: see `generate`.
    """
    if config.data is None:
        raise ConfigError("no data; give --data FOLDER of prepared cases")
    if not (config.changes_geometry or config.remove or config.drawn):
        raise ConfigError("no edit; give --shift-mm-zyx, --scale, --remove or --drawn")
    data = find_data(config.data)
    refuse_inside(run_place(config.out), [data])
    return generate(EditJob(config, data), load)


@dataclass(frozen=True)
class EditJob(Job):
    """See `EditConfig`."""

    name = "edit_lesions"
    title = "Counterfactuals"
    machine_settings = ("drawn",)
    config: EditConfig
    data: Place

    def cases(self, folder: RunFolder, session: RaySession) -> JobCases:
        """The data's cases; a drawn mask that does not fit is refused here."""
        config, data = self.config, self.data
        manifest = read_manifest(data)
        facts = case_facts(manifest, data)
        masks = pick_masks(facts, config.cases, config.splits)
        digests = data_digest(manifest)
        if config.drawn is not None:
            _drawn_classes(config.drawn, config.drawing, data, masks[0], manifest)
            digests["drawn mask"] = hash_file(config.drawn)
        return JobCases(
            data=data,
            manifests={data: manifest},
            facts=facts,
            masks=masks,
            data_sha256=digests,
        )

    def rows(self, folder: RunFolder, cases: JobCases) -> Iterator[PlanRow]:
        """The edited mask of each case that has the lesion, and the unedited one where wanted."""
        config = self.config
        change = _change(config, cases.manifest)
        gate = gate_of(config.gate, folder.root, cases.data)
        count = 0
        for case_id in cases.masks:
            case = read_prepared(self.data / f"{case_id}.zarr")
            try:
                drawn, edited = self._edit(folder, case, cases.manifest, change)
            except SamplingError as error:
                if config.cases is not None:
                    raise SamplingError(f"{case_id}: {error}") from None
                log.info("%s left out: %s", case_id, error)
                continue
            settings = _settings(config, case, edited, change.classes)
            lenders = Cases.of(cases.facts, settings)
            for planned in plan_rows(cases.facts, [case_id], settings):
                row = gate.judged(planned, lenders)
                count += 1
                update = {"drawn_mask": drawn} if drawn else {"changes": (*row.changes, change)}
                yield _renamed(row, "edit").model_copy(update=update)
                if config.keep_original:
                    yield _renamed(row, "original")
        if not count:
            names = _names(change, cases.manifest)
            raise RunError(f"{self.data}: no case has the lesion {names}; name --classes")

    def _edit(
        self, folder: RunFolder, case: PreparedCase, manifest: PreparedManifest, change: MaskChange
    ) -> tuple[str, PreparedCase]:
        """Name of the drawn mask in the run folder, or empty; and the case with its new mask."""
        if self.config.drawn is not None:
            return _keep_drawn(self.config, self.data, folder, case, manifest)
        return "", _edited(case, change)


def _renamed(row: PlanRow, what: str) -> PlanRow:
    return row.model_copy(update={"sample_id": f"{row.case_id}-{what}-r{row.replica:02d}"})


def _change(config: EditConfig, manifest: PreparedManifest) -> MaskChange:
    names = manifest.class_names
    drawn = () if config.drawn_class is None else (config.drawn_class,)
    wanted = config.classes or drawn or organ_names(names, manifest.config.contour_name)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(f"classes {unknown} are not in the data; it has {', '.join(names)}")
    return MaskChange(
        purpose="edit",
        classes=tuple(names.index(name) + 1 for name in wanted),
        component=config.component,
        remove=config.remove,
        scale_zyx=(config.scale,) * 3,
        shift_mm_zyx=config.shift_mm_zyx,
    )


def _names(change: MaskChange, manifest: PreparedManifest) -> str:
    return ", ".join(manifest.class_names[number - 1] for number in change.classes)


def _edited(case: PreparedCase, change: MaskChange) -> PreparedCase:
    return replace(case, mask=apply_change(case.mask, change, case.spacing_mm_zyx))


def _settings(
    config: EditConfig, case: PreparedCase, edited: PreparedCase, classes: tuple[int, ...]
) -> PlanSettings:
    """The patient's own slice without the lesion, before and after; the nearest to the middle."""
    if case.image is None:
        raise SamplingError(f"{case.case_id}: has no image; prepare the case with its image")
    touched = np.isin(case.mask, classes) | np.isin(edited.mask, classes)
    area = touched.sum(axis=(1, 2)) + (case.mask != edited.mask).sum(axis=(1, 2))
    body = (case.mask > 0).sum(axis=(1, 2))
    usable = np.where(body >= 0.5 * body.max(), area, area.max() + 1)  # not the very top
    best = np.flatnonzero(usable == usable.min())
    z = int(best[np.argmin(np.abs(best - len(area) // 2))])
    fixed = FixedSlice(case.case_id, f"{case.case_id}.zarr", z)
    return PlanSettings(("fixed",), config.replicas, config.seed, fixed=(fixed,))


def _drawn_classes(
    path: Path, drawing: Drawing, data: Place, case_id: str, manifest: PreparedManifest
) -> tuple[PreparedCase, Volume]:
    """A case, and a drawn mask as its whole mask in class numbers on its own grid."""
    case = read_prepared(data / f"{case_id}.zarr")
    drawn = read_labels(path)
    check_same_grid(Volume(case.native_mask, case.native.affine, case_id), drawn)
    classes = drawn_mask(case, drawn, manifest.config, drawing)
    log.info("%s: %s", path, drawn_meaning(case, drawn, manifest.config, drawing))
    return case, Volume(classes, case.native.affine, str(path), case.native.header)


def _keep_drawn(
    config: EditConfig,
    data: Place,
    folder: RunFolder,
    case: PreparedCase,
    manifest: PreparedManifest,
) -> tuple[str, PreparedCase]:
    """Keep the drawn mask in the run folder, so that any worker and any rerun finds it."""
    assert config.drawn is not None
    _, volume = _drawn_classes(config.drawn, config.drawing, data, case.case_id, manifest)
    name = f"masks/{case.case_id}.nii.gz"
    with storage_at(folder.root / name).file_to_write() as file:
        write_nifti(file, volume)
    return name, replace(case, mask=mask_to_prepared(case, volume.array))
