#!/usr/bin/env python
"""Faults that a run must survive: each is caused for real, then the job is started again.

    python benchmarks/bench_faults.py [--only NAME ...] [--no-ray]

Every fault strikes a run of its own over the same phantoms, with a fake sampler (the faults are
those of everything around it) and, where no cluster is needed, without Ray. Afterwards the run must
hold what an undisturbed run holds. The last line is JSON: faults, survived, lost, duplicated,
max_abs_diff (share of the intensity range).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.runs import generate, ledger, plan, planning
from engine.runs.folder import RunFolder, RunLock, put
from engine.runs.pipeline import Pool, Row
from engine.runs.resample import ResampleConfig, resample
from engine.runs.session import RaySession
from engine.runs.verify import VerifyJob, verify_run
from engine.runs.worker import ResampleWorker
from engine.sampling.config import SamplingConfig
from engine.sampling.request import SampledVolume, SampleRequest
from engine.volumes.cohort import write_cohort
from engine.volumes.layouts import find_cases
from engine.volumes.manifest import PreparedEntry, PreparedManifest, write_manifest
from engine.volumes.nifti import read_image, read_labels
from engine.volumes.prepare import ABDOMEN_CT, prepare_case
from engine.volumes.store import hash_tree, read_ome_zarr, write_prepared

_ROOT = Path(__file__).resolve().parents[1]
_NUM_CASES, _REPLICAS = 3, 2
_DEADLINE_S = 300.0


@dataclass(frozen=True)
class FakeSampler:
    """Mask, slice and seeded noise; kills its process or runs out of memory at a named sample.

    Attributes:
        kill: samples that kill their process every time.
        once: samples that do so the first time (a file tells).
        short: samples that run out of memory the first time.
        place: for such files.
    """

    place: Path
    kill: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    short: tuple[str, ...] = ()

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume, or do what the fault is."""
        name = request.sample_id
        if name in self.kill or (name in self.once and self._first_time(name)):
            os.kill(os.getpid(), signal.SIGKILL)
        if name in self.short and self._first_time(name):
            raise MemoryError("told to run out of memory")
        key = hashlib.sha256(f"{request.seed}/{name}".encode()).digest()
        noise = np.random.default_rng(list(key)).normal(size=request.mask.shape)
        image = 0.6 * request.informed + 0.1 * request.mask + 0.05 * noise
        return SampledVolume(np.clip(image, -1, 1).astype(np.float32), (), 1, {})

    def _first_time(self, name: str) -> bool:
        mark = self.place / f"{name}.struck"
        if mark.exists():
            return False
        mark.touch()
        return True


@dataclass(frozen=True)
class LoadFake:
    """A `LoadSampler` that survives pickling."""

    sampler: FakeSampler

    def __call__(self, weights: Path, config: SamplingConfig, device: str) -> FakeSampler:
        """The fake, whatever the weights."""
        return self.sampler


class Bench:
    """The cohort, the undisturbed run, and a fresh run folder for each fault."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.data = make_data(place / "raw", place / "data")
        self.whole = place / "whole"
        run_job(self.config(self.whole), FakeSampler(place))

    def config(self, out: Path) -> ResampleConfig:
        """The same run in another folder."""
        return ResampleConfig(
            data=self.data,
            weights=_ROOT / "weights" / "demo_abdomen",
            out=out,
            informed=("own",),
            replicas=_REPLICAS,
            num_pictured=0,
        )

    def child(self, out: Path, fault: str, *, ray: bool = False) -> subprocess.Popen[bytes]:
        """The job as a process of its own, which does to itself what the fault is."""
        command = [sys.executable, __file__, "--child", fault, "--place", str(self.place)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return subprocess.Popen(
            [*command, "--out", str(out), *(["--ray"] if ray else [])],
            env=clean,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def compare(self, out: Path, spared: set[str]) -> tuple[int, int, float]:
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


def make_data(raw: Path, out: Path) -> Path:
    """Prepared phantoms, made in this process."""
    write_cohort(raw, range(_NUM_CASES))
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
    return out


def run_job(config: ResampleConfig, sampler: FakeSampler, *, ray: bool = False) -> int:
    """The job in this process; returns how many volumes failed."""
    if not ray:
        _without_ray()
    return resample(config, LoadFake(sampler)).summary.failed


def _without_ray() -> None:
    def in_turn(
        rows: Sequence[Row], worker: type[Callable[[Row], Any]], settings: Row, pool: Pool
    ) -> Iterator[Row]:
        made = ResampleWorker(**settings)
        for row in rows:
            yield made(row)

    def nothing(*_: object, **__: object) -> None:
        return None

    for owner, name, value in (
        (generate, "run_rows", in_turn),
        (generate, "node_resources", lambda: [{"CPU": 2.0}]),
        (RaySession, "start", nothing),
    ):
        setattr(owner, name, value)


def die_at(step: str) -> None:
    """Have this process kill itself at a step of its second volume (or while planning)."""
    calls = {"put": 0}
    rename = Path.rename

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def deadly_put(path: Path, text: str) -> None:
        is_record = path.parent.name == "commits"
        calls["put"] += is_record
        if is_record and calls["put"] == 2 and step == "rename and commit":
            die()
        put(path, text)
        if not is_record and step == "ledger" and path.parent.parent.name == "attempts":
            path.write_text(text[: len(text) // 2])  # not even the rename was atomic
            die()

    def deadly_rename(path: Path, target: Path) -> Path:
        if step == "stage and rename" and path.parent.name == "staging" and calls["put"] == 1:
            die()
        return rename(path, target)

    def deadly_rows(facts: dict[str, planning.CaseFacts], *_: Any) -> Iterator[plan.PlanRow]:
        yield planning.build_plan(facts, list(facts), "own", 1, 0)[0]
        die()

    setattr(ledger, "put", deadly_put)  # noqa: B010  # mypy knows the module's own function
    setattr(Path, "rename", deadly_rename)  # noqa: B010
    if step == "planning":
        import engine.runs.resample as job

        setattr(job, "plan_rows", deadly_rows)  # noqa: B010


def child(fault: str, place: Path, out: Path, *, ray: bool) -> int:
    """What the process of a fault does."""
    bench = Bench.__new__(Bench)
    bench.place, bench.data, bench.whole = place, place / "data", place / "whole"
    marks = out.with_name(f"{out.name}.marks")
    marks.mkdir(exist_ok=True)
    sampler = {
        "mid-volume": FakeSampler(marks, once=("phantom0001-r00",)),
        "worker": FakeSampler(marks, once=("phantom0001-r00",)),
        "killer": FakeSampler(marks, kill=("phantom0001-r00",)),
        "memory": FakeSampler(marks, short=("phantom0001-r00",)),
    }.get(fault, FakeSampler(marks))
    if fault in ("planning", "stage and rename", "rename and commit", "ledger"):
        die_at(fault)
    return run_job(bench.config(out), sampler, ray=ray)


def killed_driver(bench: Bench, out: Path, fault: str) -> str:
    """SIGKILL of the whole job, then the same command again."""
    process = bench.child(out, fault)
    if process.wait(_DEADLINE_S) != -signal.SIGKILL:
        return "the job was not killed"
    if fault == "ledger":  # what broke off is an attempt's record: named, removed as told, again
        for record in (out / "attempts").glob("*/*.json"):
            with suppress(ValueError):
                json.loads(record.read_text())
                continue
            record.unlink()
    return "" if run_job(bench.config(out), FakeSampler(bench.place)) == 0 else "volumes failed"


def damaged(bench: Bench, out: Path, fault: str) -> str:
    """A finished run is damaged; verify must see it, repair it, and a rerun fill it."""
    run_job(bench.config(out), FakeSampler(bench.place))
    folder = RunFolder(out)
    name = "phantom0001-r00"
    shard = folder.volume(name) / "0" / "c" / "0" / "0" / "0"
    raw = shard.read_bytes()
    if fault == "torn":
        shard.write_bytes(raw[: len(raw) // 2])
    elif fault == "missing":
        shard.unlink()
    elif fault == "empty":
        shard.write_bytes(b"")
    elif fault == "bit":
        shard.write_bytes(raw[:99] + bytes([raw[99] ^ 1]) + raw[100:])
    else:
        folder.commit(name).write_text(folder.commit(name).read_text()[:300])
    if verify_run(VerifyJob(run=out)).is_sound:
        return "verify saw nothing"
    verify_run(VerifyJob(run=out, repair=True))
    return "" if run_job(bench.config(out), FakeSampler(bench.place)) == 0 else "volumes failed"


def two_jobs(bench: Bench, out: Path, fault: str) -> str:
    """A second job on the folder must be refused, and leave the first one alone."""
    folder = RunFolder(out)
    folder.create()
    with RunLock(folder):
        second = bench.child(out, "none")
        if second.wait(_DEADLINE_S) == 0:
            return "the second job was not refused"
    return "" if run_job(bench.config(out), FakeSampler(bench.place)) == 0 else "volumes failed"


def out_of_memory(bench: Bench, out: Path, fault: str) -> str:
    """One volume runs out of memory once: the rest is finished, then it is, too."""
    bench.child(out, "memory").wait(_DEADLINE_S)
    if len(ledger.committed_ids(RunFolder(out))) != _NUM_CASES * _REPLICAS - 1:
        return "the rest was not finished"
    return "" if run_job(bench.config(out), FakeSampler(bench.place)) == 0 else "volumes failed"


def full_disk(bench: Bench, out: Path, fault: str) -> str:
    """A tmpfs with room for two volumes; then more room."""
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return "skipped: this machine allows no mount"
    try:
        failed = run_job(bench.config(out), FakeSampler(bench.place))
        if failed == 0:
            return "the disk was not full"
        subprocess.run(["mount", "-o", "remount,size=256m", str(out)], check=True)
        again = run_job(bench.config(out), FakeSampler(bench.place))
        shutil.copytree(out, out.with_name("disk-copy"))
    finally:
        subprocess.run(["umount", str(out)], check=True)
    out.rmdir()
    out.with_name("disk-copy").rename(out)
    return "" if again == 0 else "volumes failed"


def cluster_faults(bench: Bench, out: Path, fault: str) -> str:
    """A worker is killed in mid-volume, once or every time its case comes."""
    process = bench.child(out, fault, ray=True)
    try:
        process.wait(_DEADLINE_S)
    finally:
        process.kill()
    failures = ledger.num_failures(RunFolder(out), "phantom0001-r00")
    if fault == "killer":
        return "" if failures == ledger.MAX_FAILURES else f"{failures} failures, not quarantined"
    return "" if process.returncode == 0 else "the job failed"


FAULTS: dict[str, tuple[Callable[[Bench, Path, str], str], bool]] = {
    "planning": (killed_driver, False),
    "mid-volume": (killed_driver, False),
    "stage and rename": (killed_driver, False),
    "rename and commit": (killed_driver, False),
    "ledger": (killed_driver, False),
    "torn": (damaged, False),
    "missing": (damaged, False),
    "empty": (damaged, False),
    "bit": (damaged, False),
    "half a record": (damaged, False),
    "two jobs": (two_jobs, False),
    "memory": (out_of_memory, False),
    "full disk": (full_disk, False),
    "worker": (cluster_faults, True),
    "killer": (cluster_faults, True),
}


def main(args: Sequence[str]) -> int:
    """Strike, compare, print; return 0 when everything survived."""
    sys.path.insert(0, str(_ROOT))
    from benchmarks.s3_faults import S3_FAULTS  # imports this module

    FAULTS.update(S3_FAULTS)
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=FAULTS, help="these faults only")
    parser.add_argument("--no-ray", action="store_true", help="leave out those that need Ray")
    parser.add_argument("--child", help="inner use: be the job that a fault strikes")
    parser.add_argument("--place", type=Path, help="inner use")
    parser.add_argument("--out", type=Path, help="inner use")
    parser.add_argument("--ray", action="store_true", help="inner use")
    known = parser.parse_args(args)
    if known.child is not None:
        return child(known.child, known.place, known.out, ray=known.ray)
    with tempfile.TemporaryDirectory(prefix="gem3d-") as place:
        bench = Bench(Path(place))
        wanted = [n for n in known.only or FAULTS if not (known.no_ray and FAULTS[n][1])]
        result = strike(bench, wanted)
    print(json.dumps(result))
    return 0 if result["survived"] == result["faults"] else 1


def strike(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """All faults, each on a run of its own."""
    survived = lost = duplicated = skipped = 0
    worst = 0.0
    for name in names:
        out, started = bench.place / name.replace(" ", "-"), time.perf_counter()
        trouble = FAULTS[name][0](bench, out, name)
        if trouble.startswith("skipped"):
            skipped += 1
            print(f"{name:20s} {trouble}", flush=True)
            continue
        spared = {"phantom0001-r00"} if name == "killer" else set()
        gone, more, apart = bench.compare(out, spared)
        survived += not (trouble or gone or more)
        lost, duplicated, worst = lost + gone, duplicated + more, max(worst, apart)
        took_s = time.perf_counter() - started
        print(f"{name:20s} {trouble or 'survived'} ({took_s:.0f} s)", flush=True)
    return {
        "bench": "faults",
        "faults": len(names) - skipped,
        "survived": survived,
        "skipped": skipped,
        "lost": lost,
        "duplicated": duplicated,
        "max_abs_diff": worst,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
