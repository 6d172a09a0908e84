"""Simulated workers: real rows, volumes, commits and Ray, but sampling that only takes time.

A process stands for several workers: its sampler has as many lanes, each of which is busy with one
volume for a known time, as a GPU would be.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.parallel.rows.pipeline import Pool, run_rows
from engine.parallel.start.session import RaySession
from engine.runs.making.quality import QualityConfig
from engine.runs.making.task import WorkerTask
from engine.runs.making.worker import FullWorker
from engine.runs.planning.rows import CaseFacts, PlanSettings, plan_rows
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import write_plan
from engine.runs.record.status import read_state
from engine.sampling.config import SamplingConfig
from engine.sampling.request import Outcome, SampledVolume, SampleRequest
from engine.storage.files import append
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.prepared.prepare import prepare_case
from engine.volumes.prepared.store import write_prepared
from engine.volumes.volume import Volume

_GRID = PrepareConfig(
    size_yx=(16, 16), label_map={1: 1}, class_names=("organ",), contour="body", spacing_mm_z=None
)
_TICK_S = 0.005
_PLANES_MM = 5.0


@dataclass(frozen=True)
class Simulation:
    """How much of what.

    Attributes:
        num_volumes: of all lengths, in equal parts.
        num_workers: simulated ones.
        num_processes: that they share.
        lengths: slices of the masks.
        seconds_a_slice: of sampling; a volume keeps a worker busy for its slices' sum.
        rows_ahead: rows a process holds beside those that are sampled: being read or written.
    """

    num_volumes: int = 2000
    num_workers: int = 64
    num_processes: int = 4
    lengths: tuple[int, ...] = (8, 16, 24, 32, 48, 64, 80, 96)
    seconds_a_slice: float = 0.2
    rows_ahead: int = 8

    @property
    def lanes(self) -> int:
        """Simulated workers a process."""
        return self.num_workers // self.num_processes


@dataclass(frozen=True)
class Lanes:
    """A sampler that keeps `lanes` volumes busy at once, each for a known time.

    Attributes:
        lanes: volumes at once.
        seconds_a_slice: of each.
        told: file for (process, start, end) of every volume.
    """

    lanes: int
    seconds_a_slice: float
    told: Path

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """One volume alone."""
        return next(iter(self.sample_many([request]))).result()

    def sample_many(
        self,
        requests: Iterable[SampleRequest | None],
        on_window: Callable[[str, int, int], None] | None = None,
    ) -> Iterator[Outcome]:
        """See `engine.sampling.sampler.Sampler.sample_many`."""
        source, ended = iter(requests), False
        busy: list[tuple[float, float, SampleRequest]] = []
        while busy or not ended:
            while not ended and len(busy) < self.lanes:
                request = next(source, False)
                if request is None:
                    break
                if isinstance(request, bool):
                    ended = True
                    break
                now = time.time()
                busy.append((now + len(request.mask) * self.seconds_a_slice, now, request))
            time.sleep(_TICK_S)
            now = time.time()
            for lane in [lane for lane in busy if lane[0] <= now]:
                busy.remove(lane)
                append(self.told, json.dumps([os.getpid(), lane[1], lane[0]]))
                yield Outcome(lane[2].sample_id, volume=_volume(lane[2]))


def _volume(request: SampleRequest) -> SampledVolume:
    assert request.informed is not None
    image = np.where(request.mask > 0, request.informed, -1.0).astype(np.float32)
    return SampledVolume(image, (), 1, {})


@dataclass(frozen=True)
class LoadLanes:
    """Makes the sampler inside a worker."""

    sampler: Lanes

    def __call__(self, weights: Path, config: SamplingConfig, device: str) -> Lanes:
        """The simulation, whatever the weights."""
        return self.sampler


def busy_fraction(place: Path, simulation: Simulation) -> float:
    """Share of the simulated workers' time in which they sample, until 95 % of the work is done.

    The clock starts when the last process has begun its first volume: starting processes is no
    business of the pipeline.

    Args:
        place: an empty folder.
        simulation: what to run.
    """
    data, folder = place / "data", RunFolder(place / "run")
    facts = _write_cases(data, simulation.lengths)
    folder.create()
    replicas = -(-simulation.num_volumes // len(facts))
    write_plan(folder.plan, plan_rows(facts, list(facts), PlanSettings(("own",), replicas)))
    at_once = simulation.lanes + simulation.rows_ahead
    lanes = Lanes(simulation.lanes, simulation.seconds_a_slice, place / "busy.jsonl")
    task = WorkerTask(
        root=folder.root,
        data=data,
        weights=place,
        sampling=SamplingConfig(),
        settings_sha256="",
        weights_sha256="",
        code="",
        num_threads=1,
        quality=QualityConfig(policy="off"),
        rows_at_once=at_once,
    )
    rows = [{"plan": text} for _, _, text in read_state(folder).pending]
    pool = Pool(simulation.num_processes, 0.1, 0.0, 1, at_once)
    with RaySession() as session:
        session.start()
        statuses = list(run_rows(rows, FullWorker, {"task": task, "load": LoadLanes(lanes)}, pool))
    failed = [status for status in statuses if status["status"] != "committed"]
    assert not failed and len(statuses) == len(rows), failed[:3]
    return measured(lanes.told, simulation.num_workers)


def measured(told: Path, num_workers: int) -> float:
    """The busy share of what `Lanes` wrote down."""
    spans = [json.loads(line) for line in told.read_text().splitlines()]
    first: dict[int, float] = {}
    for process, start, _ in spans:
        first[process] = min(start, first.get(process, start))
    begin, last = max(first.values()), max(end for *_, end in spans)
    work = np.array([(start, end) for _, start, end in spans])
    total = float((work[:, 1] - work[:, 0]).sum())

    def done(until: float, since: float) -> float:
        inside = np.minimum(work[:, 1], until) - np.maximum(work[:, 0], since)
        return float(np.maximum(inside, 0.0).sum())

    moments = np.linspace(begin, last, 2000)
    until = next(float(t) for t in moments if done(float(t), 0.0) >= 0.95 * total or t == last)
    return done(until, begin) / (num_workers * (until - begin))


def _write_cases(data: Path, lengths: Iterable[int]) -> dict[str, CaseFacts]:
    """Prepared cases of these lengths: an ellipse with an organ."""
    facts = {}
    y, x = np.mgrid[:16, :16]
    body = ((y - 7.5) / 6) ** 2 + ((x - 7.5) / 7) ** 2 < 1
    organ = body & ((y - 7) ** 2 + (x - 5) ** 2 < 9)
    for length in lengths:
        name = f"long{length:03d}"
        labels = np.repeat((organ * 1)[None], length, axis=0).astype(np.int32)
        image = np.repeat(np.where(body, 60.0 * organ, -1000.0)[None], length, axis=0)
        affine = np.diag([-_GRID.spacing_mm_yx, -_GRID.spacing_mm_yx, _PLANES_MM, 1.0])
        volume = Volume(image.astype(np.float32), affine, name)
        case = prepare_case(volume, Volume(labels, affine, name), _GRID, name)
        write_prepared(data / f"{name}.zarr", case)
        facts[name] = CaseFacts(case.size_zyx[0], has_image=True)
    return facts
