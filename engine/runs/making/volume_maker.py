"""One volume of a run, without a model: what the model is asked for, and what its answer becomes.

`read` turns a plan row into a sampling request (mask read, changed; informed slice read), `finish`
turns a sampled volume into a committed one (measured, judged, back to the native grid, staged,
hashed, renamed, recorded). In between stands whoever has a model (`worker.py`). Knows no Ray.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import RunError, SamplingError
from engine.evaluation.expectations import Expectations
from engine.evaluation.quality import judge
from engine.evaluation.values import VolumeMeasures
from engine.parallel.rows.pulse import step
from engine.runs.making.task import WorkerTask
from engine.runs.making.voxels.stored import as_stored
from engine.runs.making.voxels.work import VoxelWork
from engine.runs.planning.gate import flag_drawn
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import code_commit
from engine.runs.record.plan import PlanRow, in_run, retry_seed, stored_at
from engine.runs.record.records import Attempt, Commit, Quality
from engine.sampling.request import RealCase, SampledVolume, SampleRequest
from engine.storage.backends.find import storage_at
from engine.storage.digests import hash_file
from engine.storage.places import Place
from engine.volumes.mask_changes import apply_change
from engine.volumes.nifti import read_labels
from engine.volumes.prepared.prepare import mask_to_native, mask_to_prepared
from engine.volumes.prepared.store import read_prepared, refuse_changed
from engine.volumes.store import MASK, MODEL_MASK, hash_tree, write_ome_zarr
from engine.volumes.volume import PreparedCase, Volume


@dataclass
class Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent inside towards a stage."""
        started = time.perf_counter()
        step()
        try:
            yield
        finally:
            step()
            spent = time.perf_counter() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)


@dataclass(frozen=True)
class Work:
    """A volume between reading and commit.

    Attributes:
        plan: its row.
        attempt: this try at it.
        original: the case as prepared.
        case: with the mask to sample, and the intensity window of the volume to be.
        request: what the model is asked for.
        target_z: slice of the volume at the informed slice's height.
        clock: seconds so far.
        retries: volumes that the quality gate has refused before.
    """

    plan: PlanRow
    attempt: Attempt
    original: PreparedCase
    case: PreparedCase
    request: SampleRequest
    target_z: int
    clock: Clock
    retries: int = 0


class VolumeMaker:
    """Reads, measures, judges, writes and commits the volumes of one run."""

    def __init__(self, task: WorkerTask, device: str = "cpu") -> None:
        self._task = task
        self._folder = RunFolder(task.root)
        self._voxels = VoxelWork(device)

    def read(self, plan: PlanRow, attempt: Attempt) -> Work:
        """Read what a row names.

        Raises:
            EngineError: a case or a drawn mask is missing, damaged, or does not fit.
        """
        clock = Clock()
        with clock.stage("read"):
            original = read_prepared(self._place(plan.mask_source), plan.mask_sha256)
            source = original
            if plan.informed != "generated" and plan.informed_source != plan.mask_source:
                place = self._place(plan.informed_source)
                source = read_prepared(place, plan.informed_sha256)
            case = self._changed(plan, original)
            if plan.informed == "fixed":  # looks like that scan, in its intensities, too
                _refuse_other_unit(plan, case, source)
                case = replace(case, intensity=source.intensity)
            request = _request(plan, case, source)
            request = replace(request, real=_real(original, case))
        target_z = round(request.informed_position * (case.size_zyx[0] - 1))
        return Work(plan, attempt, original, case, request, target_z, clock)

    def finish(self, work: Work, sampled: SampledVolume) -> Work | None:
        """Commit a sampled volume; or, when the quality gate wants it, work to sample again.

        Raises:
            SamplingError: the volume is not what was asked for.
            RejectedError: the quality gate refuses it for good.
            EngineError: it cannot be written.
        """
        plan, case, config = work.plan, work.case, self._task.quality
        if sampled.image.shape != case.size_zyx or not np.isfinite(sampled.image).all():
            raise SamplingError(
                f"{plan.sample_id}: the model returned {sampled.image.shape} voxels for a mask of "
                f"{case.size_zyx}, or voxels that are not finite; try another profile or weights"
            )
        with work.clock.stage("measure"):
            subject, measures = self._voxels.measure(
                case, sampled.image, sampled.joins, work.original
            )
            flags: tuple[str, ...] = ()
            if config.policy != "off":
                expected = Expectations(config, self._task.cohort, case.intensity)
                flags = judge(subject.made, measures, expected)
                if sampled.informed is not None:
                    outline = case.mask[work.target_z]
                    flags += flag_drawn(sampled.informed, outline, case.contour, self._task.gate)
        if flags and config.policy == "retry" and work.retries < config.max_retries:
            return self._again(work)
        if flags and config.policy == "quarantine":
            raise RejectedError(
                f"{plan.sample_id}: refused by the quality gate ({', '.join(flags)}); "
                "try another informed slice, or quality.policy mark"
            )
        self._commit(work, sampled, measures, Quality(flags=flags, retries=work.retries))
        return None

    def _place(self, source: str) -> Place:
        return stored_at(self._task.root, self._task.data, source)

    def _again(self, work: Work) -> Work:
        retries = work.retries + 1
        seed = retry_seed(work.plan.seed, work.plan.sample_id, retries)
        return replace(work, retries=retries, request=replace(work.request, seed=seed))

    def _changed(self, plan: PlanRow, original: PreparedCase) -> PreparedCase:
        """The case with the mask that the row asks for."""
        case = original
        if plan.drawn_mask:
            path = self._place(in_run(plan.drawn_mask))
            with storage_at(path).as_file() as file:
                refuse_changed(path, hash_file(file), plan.drawn_sha256)
                drawn = read_labels(file).array.astype(np.uint8)
            mask = mask_to_prepared(original, drawn)
            case = replace(original, mask=mask, native_mask=drawn)
        for change in plan.changes:
            mask = apply_change(case.mask, change, case.spacing_mm_zyx)
            case = replace(case, mask=mask)
        if plan.changes:
            case = replace(case, native_mask=mask_to_native(case, case.mask).array)
        return case

    def _commit(
        self,
        work: Work,
        sampled: SampledVolume,
        measures: VolumeMeasures,
        quality: Quality,
    ) -> None:
        case, clock = work.case, work.clock
        staged = ledger.staging_place(self._folder, work.attempt)
        with clock.stage("write"):
            native = self._voxels.to_native(case, sampled.image)
            native = as_stored(native, case.intensity, self._task.stored)
            mask = Volume(case.native_mask, case.native.affine, case.case_id)
            seen = self._voxels.seen(case)
            attributes = {
                **self._attributes(work),
                "mask_seen": {
                    "label": MASK if seen.mask is None else MODEL_MASK,
                    "prepared_sha256": seen.digest,
                },
            }
            sent = write_ome_zarr(staged, native, mask, attributes, sampled.informed, seen.mask)
        clock.seconds.update({f"sample/{k}": round(v, 3) for k, v in sampled.timings_s.items()})

        def record(files: dict[str, str]) -> Commit:
            made = self._record(work, sampled, files, measures, native.size_zyx)
            return made.model_copy(update={"quality": quality, "grid_loss": seen.loss})

        ledger.commit(self._folder, work.attempt, staged, partial(hash_tree, expected=sent), record)

    def _record(
        self,
        work: Work,
        sampled: SampledVolume,
        files: dict[str, str],
        measures: VolumeMeasures,
        size_zyx: tuple[int, int, int],
    ) -> Commit:
        """The commit record, but for what was judged."""
        plan = work.plan
        return Commit(
            sample_id=plan.sample_id,
            case_id=plan.case_id,
            informed_case=plan.informed_case,
            informed_z=plan.informed_z,
            target_z=work.target_z,
            seed=work.request.seed,
            attempt=work.attempt.number,
            files=files,
            config_sha256=self._task.settings_sha256,
            weights_sha256=self._task.weights_sha256,
            num_windows=sampled.num_windows,
            joins=sampled.joins,
            size_zyx=size_zyx,
            timings_s=work.clock.seconds,
            peak_memory_mb=peak_memory_mb(),
            measures=measures,
            row_sha256=plan.sha256,
            committed_at=round(time.time(), 3),
            code=_own_code(),
        )

    def _attributes(self, work: Work) -> dict[str, Any]:
        """What travels with the volume: equal for every attempt, and so are its bytes."""
        return {
            "synthetic": True,
            "intensity_unit": work.case.intensity.unit,
            "intensity_window": work.case.intensity.description(),
            "class_names": list(work.case.class_names),
            "contour": work.case.contour,
            "provenance": {
                **work.plan.model_dump(mode="json", exclude={"mask_source", "informed_source"}),
                "seed": work.request.seed,
                "settings_sha256": self._task.settings_sha256,
                "weights_sha256": self._task.weights_sha256,
                "code": self._task.code,
                "notice": "synthetic, not for diagnosis",
            },
        }


class RejectedError(RunError):
    """The quality gate refuses a volume for good."""

    @property
    def remedy(self) -> str:
        """Another volume of that mask, or this one with a mark."""
        return "try quality.policy mark to keep such volumes, another informed slice, or a new seed"


def _request(plan: PlanRow, case: PreparedCase, source: PreparedCase) -> SampleRequest:
    if plan.informed == "generated":  # drawn by the sampler: by this seed, and without a mask
        height = plan.informed_z / max(1, plan.num_slices - 1)
        return SampleRequest(plan.sample_id, plan.seed, case.mask, None, height)
    image = _image(plan, source)
    if not 0 <= plan.informed_z < len(image):
        raise SamplingError(
            f"{plan.sample_id}: slice {plan.informed_z} of {plan.informed_case}, which has "
            f"{len(image)}; the data changed after planning: choose a new run folder"
        )
    known = source.class_names == case.class_names
    return SampleRequest(
        sample_id=plan.sample_id,
        seed=plan.seed,
        mask=case.mask,
        informed=image[plan.informed_z],
        informed_mask=source.mask[plan.informed_z] if known else None,
        informed_position=plan.informed_z / max(1, len(image) - 1),
        pinned=plan.informed_z if _is_own_slice(plan) else None,
    )


def _is_own_slice(plan: PlanRow) -> bool:
    """Whether the informed slice is a slice of the very volume: same case, its mask unchanged."""
    unchanged = not plan.changes and not plan.drawn_mask
    return plan.informed_source == plan.mask_source and unchanged


def _real(original: PreparedCase, case: PreparedCase) -> RealCase:
    """The real case of a mask, in the intensity window of the volume to be made."""
    image = original.image if case.mask is original.mask else None
    if image is not None and original.intensity != case.intensity:
        image = case.intensity.to_model(original.intensity.to_source(image))
    return RealCase(original.case_id, image, case.intensity)


def _image(plan: PlanRow, source: PreparedCase) -> NDArray[np.float32]:
    if source.image is None:
        raise SamplingError(
            f"{plan.informed_case}: has no image to take an informed slice from; "
            "prepare the case with its image"
        )
    return source.image


def _refuse_other_unit(plan: PlanRow, case: PreparedCase, source: PreparedCase) -> None:
    if source.intensity.unit != case.intensity.unit:
        raise SamplingError(
            f"{plan.sample_id}: the informed slice of {plan.informed_case} is measured in "
            f"{source.intensity.unit}, the case in {case.intensity.unit}; give a slice of the same "
            "modality"
        )


@cache
def _own_code() -> str:
    """The code that this process runs; a cluster's computers can hold different ones."""
    return code_commit()


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0, 1)
