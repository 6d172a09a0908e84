"""A run's volume, the real one of its mask and its rivals, brought onto the model's grid alike.

A volume of a run lies on its mask's own grid. Going there and back smooths where the two grids
differ; so the real volume and the rivals go there and back, too. Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import RunError, SamplingError, StoreError
from engine.evaluation.subject import Scan, Subject
from engine.runs.making.rivals import LoadRival
from engine.runs.making.task import WorkerTask
from engine.runs.making.volume_maker import VolumeMaker, Work
from engine.runs.making.voxels.subjects import subject_of
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow, stored_at
from engine.runs.record.records import Attempt, Commit
from engine.sampling.config import SamplingConfig
from engine.sampling.rivals.sampler import RivalSampler
from engine.storage.places import Place
from engine.volumes.prepared.prepare import image_to_prepared, to_native
from engine.volumes.prepared.store import read_prepared
from engine.volumes.store import hash_tree, read_ome_zarr
from engine.volumes.volume import PreparedCase

Image = NDArray[np.float32]
OWN_ROW = "this run"
"""Name of the run's own volumes among the rows of a table."""


@dataclass(frozen=True)
class Beside:
    """A volume of a run with all that it is compared with, on the model's grid.

    Attributes:
        plan: its row.
        commit: its record.
        subjects: row of the tables -> volume beside the real one.
        absent: row -> why a rival made none.
    """

    plan: PlanRow
    commit: Commit
    subjects: Mapping[str, Subject]
    absent: Mapping[str, str]


class VolumeReader:
    """Reads volumes of one run.

    Args:
        root: the run folder.
        data: prepared cases that the run was made from.
        rivals: by name.
    """

    def __init__(self, root: Place, data: Place, rivals: Mapping[str, LoadRival]) -> None:
        self._folder, self._data = RunFolder(root), data
        settings = SamplingConfig()
        task = WorkerTask(root, data, Path(), settings, "", "", "", 1)
        self._maker = VolumeMaker(task)
        self._rivals: dict[str, RivalSampler] = {
            name: load(Path(), settings, "cpu") for name, load in rivals.items()
        }

    def read(self, plan: PlanRow) -> Beside:
        """A volume, its real case and what its rivals make of the same row.

        Raises:
            RunError: there is no such volume.
            StoreError: it is damaged, or a case of the plan is not in the data.
        """
        commit, work = self._commit(plan), self._work(plan)
        original = work.original
        if original.image is not None:
            original = replace(original, image=there_and_back(original, original.image))
        made = {OWN_ROW: self._image(commit, work.case)}
        absent = {}
        for name, rival in self._rivals.items():
            try:
                image = rival.sample(work.request).image
                made[name] = there_and_back(work.case, image)
            except SamplingError as error:
                absent[name] = str(error).partition(": ")[2] or str(error)
        subjects = {
            name: subject_of(work.case, image, commit.joins if name == OWN_ROW else (), original)
            for name, image in made.items()
        }
        return Beside(plan, commit, subjects, absent)

    def image(self, plan: PlanRow) -> tuple[Image, PreparedCase]:
        """A volume alone, and the case with the mask that it was made for."""
        case = self._work(plan).case
        return self._image(self._commit(plan), case), case

    def truth(self, plan: PlanRow) -> Image | None:
        """The real volume of a row's mask; None where the mask was changed or has no image."""
        original = read_prepared(stored_at(self._folder.root, self._data, plan.mask_source))
        if plan.changes or plan.drawn_mask or original.image is None:
            return None
        return there_and_back(original, original.image)

    def real(self, source: str) -> Scan | None:
        """A real case by where it is stored; None without an image."""
        case = read_prepared(stored_at(self._folder.root, self._data, source))
        if case.image is None:
            return None
        image = there_and_back(case, case.image)
        return Scan(image, case.mask, case.class_names, case.intensity)

    def _work(self, plan: PlanRow) -> Work:
        attempt = Attempt(sample_id=plan.sample_id, number=0, started_at=0.0, worker="")
        return self._maker.read(plan, attempt)

    def _commit(self, plan: PlanRow) -> Commit:
        commit = ledger.read_commit(self._folder, plan.sample_id)
        if commit is None:
            raise RunError(f"{plan.sample_id}: has no commit record; start the run's job again")
        return commit

    def _image(self, commit: Commit, case: PreparedCase) -> Image:
        path = ledger.volume_of(self._folder, commit)
        if hash_tree(path) != commit.files:
            raise StoreError(
                f"{path}: not what its commit record says; jobs/verify_run.py --repair deletes "
                "what is damaged, and the run's job makes it anew"
            )
        volume, _, _ = read_ome_zarr(path)
        return image_to_prepared(case, volume.array)


def there_and_back(case: PreparedCase, image: Image) -> Image:
    """An image on the model's grid after the way to the mask's own grid and back."""
    return image_to_prepared(case, to_native(case, image).array)
