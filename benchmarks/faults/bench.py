"""What all families share: the cohort, the undisturbed run, jobs in this process or another.

A family is a module with `FAULTS`, a tuple of `Fault`. Its faults call the job through `Bench` and
`run_job`, in this process or as a child that does to itself what the fault is.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from engine.parallel.rows.pipeline import Pool, Row
from engine.parallel.start.session import RaySession
from engine.runs.jobs import working
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.making.worker import ResampleWorker
from engine.runs.record import ledger, plan
from engine.runs.record.folder import RunFolder
from engine.volumes.layouts import find_cases
from engine.volumes.nifti import read_image, read_labels
from engine.volumes.phantoms.cohort import write_cohort
from engine.volumes.prepared.manifest import PreparedEntry, PreparedManifest, write_manifest
from engine.volumes.prepared.prepare import ABDOMEN_CT, prepare_case
from engine.volumes.prepared.store import write_prepared
from engine.volumes.store import hash_tree, read_ome_zarr
from faults.sampler import FakeSampler, LoadFake

ROOT = Path(__file__).resolve().parents[2]
NUM_CASES, REPLICAS = 3, 2
NUM_VOLUMES = NUM_CASES * REPLICAS
DEADLINE_S = 600.0


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: shown, and given to `--only`.
        strike: causes it in a run in the given folder, and starts the job again. Returns "" when
            all went as it should, "skipped: ..." where this machine cannot cause it, else what
            went wrong. The run must then lie in that folder, on a local disk, to be compared.
        inside: what a child process (`Bench.child`) does to itself before it starts the job, given
            a folder for marks; returns its sampler.
        needs_ray: whether it needs a cluster.
        spared: samples that need not exist afterwards, because they are rightly quarantined.
        rows_at_once: volumes in a worker at once, of the child.
    """

    name: str
    strike: Callable[[Bench, Path], str]
    inside: Callable[[Path], FakeSampler] = FakeSampler
    needs_ray: bool = False
    spared: frozenset[str] = frozenset()
    rows_at_once: int | None = None


@dataclass(frozen=True)
class Bench:
    """The cohort, the undisturbed run, and a fresh run folder for each fault."""

    place: Path

    @classmethod
    def make(cls, place: Path) -> Bench:
        """Make cohort and undisturbed run below a folder."""
        bench = cls(place)
        make_data(place / "raw", bench.data)
        run_job(bench.config(bench.whole), FakeSampler(place))
        return bench

    @property
    def data(self) -> Path:
        """Prepared phantoms."""
        return self.place / "data"

    @property
    def whole(self) -> Path:
        """The undisturbed run."""
        return self.place / "whole"

    def config(self, out: Path) -> ResampleConfig:
        """The same run in another folder."""
        return ResampleConfig(
            data=self.data,
            weights=ROOT / "weights" / "demo_abdomen",
            out=out,
            informed=("own",),
            replicas=REPLICAS,
            num_pictured=0,
            stall_timeout=30.0,
        )

    def again(self, out: Path) -> str:
        """The same command once more, undisturbed; "" when every volume then exists."""
        failed = run_job(self.config(out), FakeSampler(self.place))
        return "" if failed == 0 else f"{failed} volumes failed"

    def child(self, out: Path, fault: str, *, ray: bool = False) -> subprocess.Popen[bytes]:
        """The job as a process of its own, which does to itself what the fault is."""
        script = str(ROOT / "benchmarks" / "bench_faults.py")
        command = [sys.executable, script, "--child", fault, "--place", str(self.place)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return subprocess.Popen(
            [*command, "--out", str(out), *(["--ray"] if ray else [])],
            env={**clean, "PYTHONPATH": str(ROOT)},  # Ray's workers look for the families, too
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def compare(self, out: Path, spared: frozenset[str]) -> tuple[int, int, float]:
        """Volumes lost, volumes too many, and the largest difference to the undisturbed run."""
        whole, folder = RunFolder(self.whole), RunFolder(out)
        planned = {row.sample_id for row in plan.iter_plan(whole.plan)} - spared
        there = ledger.committed_ids(folder, whole=True)
        stored = {p.name.removesuffix(".ome.zarr") for p in (out / "volumes").iterdir()}
        worst = 0.0
        for name in planned & there:
            image, _, _ = read_ome_zarr(folder.volume(name))
            expected, _, _ = read_ome_zarr(whole.volume(name))
            span = float(np.ptp(expected.array)) or 1.0
            worst = max(worst, float(np.abs(image.array - expected.array).max()) / span)
        return len(planned - there), len(stored - planned), worst


def make_data(raw: Path, out: Path) -> None:
    """Prepared phantoms, made in this process."""
    write_cohort(raw, range(NUM_CASES))
    entries = {}
    for files in find_cases(raw):
        assert files.image is not None
        case = prepare_case(
            read_image(files.image), read_labels(files.mask), ABDOMEN_CT, files.case_id
        )
        path = out / f"{files.case_id}.zarr"
        write_prepared(path, case)
        digest = hashlib.sha256(json.dumps(hash_tree(path)).encode()).hexdigest()
        entries[files.case_id] = PreparedEntry(
            dataset="phantoms",
            split="train",
            sha256=digest,
            size_zyx=case.size_zyx,
            has_image=True,
            sources={},
        )
    names = ABDOMEN_CT.all_class_names
    write_manifest(out, PreparedManifest(config=ABDOMEN_CT, class_names=names, cases=entries))


def run_job(config: ResampleConfig, sampler: FakeSampler, *, ray: bool = False) -> int:
    """The job in this process; returns how many volumes failed."""
    with nullcontext() if ray else _without_ray():
        return resample(config, LoadFake(sampler)).summary.failed


@contextmanager
def _without_ray() -> Iterator[None]:
    """Rows one after the other in this process."""

    def in_turn(
        rows: Sequence[Row], worker: type[Callable[[Row], Any]], settings: Row, pool: Pool
    ) -> Iterator[Row]:
        made = ResampleWorker(**settings)
        for row in rows:
            yield made(row)

    def nothing(*_: object, **__: object) -> None:
        return None

    with (
        patch.object(working, "run_rows", in_turn),
        patch.object(working, "node_resources", lambda: [{"CPU": 2.0}]),
        patch.object(RaySession, "start", nothing),
    ):
        yield
