"""A resampling worker: plan row in, committed volume and status row out.

It reads the prepared case and the informed slice by name, samples, measures, goes back to the
native grid, writes and commits. Volumes never travel between processes. It knows no Ray: the pool
in `pipeline.py` calls it, and so can a test.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import EngineError, SamplingError
from engine.log import get_logger
from engine.runs import ledger
from engine.runs.folder import RunFolder
from engine.runs.measure import measure
from engine.runs.plan import PlanRow
from engine.runs.progress import write_event
from engine.sampling.config import SamplingConfig
from engine.sampling.sampler import SampledVolume, Sampler, SampleRequest
from engine.volumes.prepare import to_native
from engine.volumes.store import hash_tree, read_prepared, write_ome_zarr
from engine.volumes.volume import PreparedCase, Volume

log = get_logger(__name__)


class SamplerLike(Protocol):
    """What a worker asks of a model."""

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume."""


LoadSampler = Callable[[Path, SamplingConfig, str], SamplerLike]


def load_sampler(weights: Path, config: SamplingConfig, device: str) -> SamplerLike:
    """The real model."""
    return Sampler.load(weights, config, device=device)


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
    """

    root: Path
    data: Path
    weights: Path
    sampling: SamplingConfig
    settings_sha256: str
    weights_sha256: str
    code: str
    num_threads: int


@dataclass(frozen=True)
class _Informed:
    image: NDArray[np.float32]  # y x in [-1, 1]
    mask: NDArray[np.uint8]  # y x
    position: float  # 0 to 1


@dataclass
class _Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Any:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


class ResampleWorker:
    """Holds the model in one process and makes volumes with it, one at a time."""

    def __init__(self, task: WorkerTask, load: LoadSampler = load_sampler) -> None:
        torch.set_num_threads(max(1, min(task.num_threads, os.cpu_count() or 1)))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._task = task
        self._folder = RunFolder(task.root)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._sampler = load(task.weights, task.sampling, device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the volume of one plan row.

        Returns:
            `{"sample_id", "status", "message"}` with status "committed", "failed" or "quarantined".
        """
        plan = PlanRow.model_validate(row)
        sample_id = plan.sample_id
        if ledger.read_commit(self._folder, sample_id):
            return _status(sample_id, "committed")  # by a worker that died before it could tell
        try:
            attempt = ledger.begin_attempt(self._folder, sample_id, self._name)
        except EngineError as error:
            write_event(self._folder.progress, "failed", sample_id)
            return _status(sample_id, "quarantined", str(error))
        write_event(self._folder.progress, "started", sample_id)
        try:
            self._make(plan, attempt)
        except Exception as error:  # one bad sample must not stop the others
            message = f"{type(error).__name__}: {error}"
            log.exception("%s failed", sample_id)
            ledger.fail(self._folder, attempt, message)
            write_event(self._folder.progress, "failed", sample_id)
            return _status(sample_id, "failed", message)
        write_event(self._folder.progress, "committed", sample_id)
        return _status(sample_id, "committed")

    def _make(self, plan: PlanRow, attempt: ledger.Attempt) -> None:
        clock = _Clock()
        with clock.stage("read"):
            case = read_prepared(self._task.data / f"{plan.case_id}.zarr")
            informed = self._informed(plan, case)
        with clock.stage("sample"):
            sampled = self._sample(plan, case, informed)
        with clock.stage("measure"):
            measures = measure(case, sampled.image, sampled.joins)
        staged = ledger.staging_place(self._folder, attempt)
        with clock.stage("write"):
            native = to_native(case, sampled.image)
            mask = Volume(case.native_mask, case.native.affine, case.case_id)
            write_ome_zarr(staged, native, mask, self._attributes(plan, case))
        clock.seconds.update({f"sample/{k}": round(v, 3) for k, v in sampled.timings_s.items()})

        def record(files: dict[str, str]) -> ledger.Commit:
            return ledger.Commit(
                sample_id=plan.sample_id,
                case_id=plan.case_id,
                informed_case=plan.informed_case,
                informed_z=plan.informed_z,
                target_z=round(informed.position * (case.size_zyx[0] - 1)),
                seed=plan.seed,
                attempt=attempt.number,
                files=files,
                config_sha256=self._task.settings_sha256,
                weights_sha256=self._task.weights_sha256,
                num_windows=sampled.num_windows,
                joins=sampled.joins,
                size_zyx=native.size_zyx,
                timings_s=clock.seconds,
                peak_memory_mb=peak_memory_mb(),
                measures=measures,
                committed_at=round(time.time(), 3),
            )

        ledger.commit(self._folder, attempt, staged, hash_tree, record)

    def _informed(self, plan: PlanRow, case: PreparedCase) -> _Informed:
        """The informed slice, its classes, and its relative height in its own volume."""
        source = case
        if plan.informed_case != plan.case_id:
            source = read_prepared(self._task.data / f"{plan.informed_case}.zarr")
        if source.image is None:
            raise SamplingError(
                f"{plan.informed_case}: has no image to take an informed slice from; "
                "prepare the case with its image"
            )
        depth = source.image.shape[0]
        position = plan.informed_z / max(1, depth - 1)
        return _Informed(source.image[plan.informed_z], source.mask[plan.informed_z], position)

    def _sample(
        self,
        plan: PlanRow,
        case: PreparedCase,
        informed: _Informed,
    ) -> SampledVolume:
        request = SampleRequest(
            sample_id=plan.sample_id,
            seed=plan.seed,
            mask=case.mask,
            informed=informed.image,
            informed_mask=informed.mask,
            informed_position=informed.position,
        )

        def on_window(done: int, total: int) -> None:
            write_event(self._folder.progress, "window", plan.sample_id, done, total)

        sampled = self._sampler.sample(request, on_window)
        if sampled.image.shape != case.size_zyx or not np.isfinite(sampled.image).all():
            raise SamplingError(
                f"{plan.sample_id}: the model returned {sampled.image.shape} voxels for a mask of "
                f"{case.size_zyx}, or voxels that are not finite; try another profile or weights"
            )
        return sampled

    def _attributes(self, plan: PlanRow, case: PreparedCase) -> dict[str, Any]:
        """What travels with the volume: equal for every attempt, and so are its bytes."""
        return {
            "synthetic": True,
            "intensity_unit": case.intensity.unit,
            "class_names": list(case.class_names),
            "provenance": {
                **plan.model_dump(mode="json"),
                "settings_sha256": self._task.settings_sha256,
                "weights_sha256": self._task.weights_sha256,
                "code": self._task.code,
                "notice": "synthetic, not for diagnosis",
            },
        }


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0, 1)


def _status(sample_id: str, status: str, message: str = "") -> dict[str, Any]:
    return {"sample_id": sample_id, "status": status, "message": message}
