#!/usr/bin/env python
"""A data set resampled while its processes are killed at random; it must end complete.

    python benchmarks/bench_kills.py [--volumes 300] [--kills 10] [--quick] [--keep FOLDER]

Thin phantoms are made and prepared by the jobs themselves (or `--data` names a prepared folder),
then `jobs/resample_abdomen.py` draws masks x replicas volumes with two workers of one thread each.
When the run has as many volumes as a seeded draw says, a worker or the whole job gets SIGKILL; a
job that ended is started again by the same command, as a user would. `jobs/verify_run.py` has the
last word. `--quick` makes 20 volumes with 3 kills.

The last line is JSON: volumes, kills (by kind), restarts, committed, lost (planned volumes that do
not exist), duplicated (stored volumes that no plan row asked for, or without a commit record),
tries (attempts at volumes), verify (its exit code), seconds.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import iter_plan

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("worker", "job")
_POLL_S = 0.2
_MAX_DELAY_S = 3.0  # from the volume that a kill waits for to the kill: anywhere in the next one
_END_S = 15.0  # that a killed job's own processes get to end by themselves
_MAX_STARTS = 50


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        kind: "worker" (one that holds a model) or "job" (the process that was started).
        after: committed volumes that it waits for.
        delay_s: seconds from then.
    """

    kind: str
    after: int
    delay_s: float


@dataclass
class Tale:
    """What happened.

    Attributes:
        killed: kinds, in order.
        starts: of the job.
    """

    killed: list[str] = field(default_factory=list)
    starts: int = 0


def main(args: Sequence[str]) -> int:
    """Make, kill, restart, verify, print; return 0 when the run is complete and sound."""
    options = parse(args)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gem3d-") as temporary:
        place = options.keep or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        data = options.data or make_data(place, options.num_phantoms, options.num_slices)
        run = place / "run"
        command = job(run, data, options)
        tale = play(command, run, draw_kills(options))
        result = judge(run, tale)
    result["seconds"] = round(time.monotonic() - started_s, 1)
    print(json.dumps(result))
    whole = result["volumes"] == result["committed"] >= options.volumes
    return 0 if whole and not (result["lost"] or result["duplicated"] or result["verify"]) else 1


def parse(args: Sequence[str]) -> Namespace:
    """The command line; `--quick` sets volumes, kills and phantoms."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--volumes", type=int, default=300, help="to make, at least")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--data", type=Path, help="prepared cases instead of phantoms")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "demo_abdomen")
    parser.add_argument("--num-phantoms", type=int, default=10)
    parser.add_argument("--num-slices", type=int, default=16, help="of each phantom")
    parser.add_argument("--keep", type=Path, help="work here, and leave it")
    parser.add_argument("--quick", action="store_true", help="20 volumes of 4 phantoms, 3 kills")
    options = parser.parse_args(args)
    if options.quick:
        options.volumes, options.kills, options.num_phantoms = 20, 3, 4
    return options


def make_data(place: Path, num_phantoms: int, num_slices: int) -> Path:
    """Phantoms, made and prepared by the jobs."""
    raw, data = place / "raw", place / "data"
    config = ROOT / "jobs" / "configs" / "prepare_abdomen_ct.yaml"
    for arguments in (
        ["make_phantoms.py", "--out", raw, "--num-phantoms", num_phantoms,
         "--phantom.num-slices", num_slices],
        ["prepare_dataset.py", "--config", config, "--root", raw, "--out", data],
    ):  # fmt: skip
        subprocess.run(script(*arguments), check=True, env=environment(), stdout=sys.stderr)
    return data


def job(run: Path, data: Path, options: Namespace) -> list[str]:
    """The command of the run."""
    num_masks = len(json.loads((data / "dataset.json").read_text(encoding="utf-8"))["cases"])
    return script(
        "resample_abdomen.py", "--data", data, "--weights", options.weights, "--out", run,
        "--replicas", math.ceil(options.volumes / num_masks), "--num-workers", 2,
        "--num-pictured", 0,
    )  # fmt: skip


def script(*arguments: object) -> list[str]:
    """The command line of a job: the name of its file in jobs/, then its arguments."""
    name, *rest = map(str, arguments)
    return [sys.executable, str(ROOT / "jobs" / name), *rest]


def environment() -> dict[str, str]:
    """For every process: this checkout's packages, and one thread."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return {**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def draw_kills(options: Namespace) -> list[Kill]:
    """Kinds and moments, spread over the run at random; each kind at least once."""
    rng = random.Random(options.seed)
    kinds = [KINDS[i % 2] if i < 2 else rng.choice(KINDS) for i in range(options.kills)]
    rng.shuffle(kinds)
    moments = sorted(rng.randrange(int(0.95 * options.volumes)) for _ in kinds)
    return [
        Kill(kind, after, rng.uniform(0.0, _MAX_DELAY_S))
        for kind, after in zip(kinds, moments, strict=True)
    ]


def play(command: Sequence[str], run: Path, kills: list[Kill]) -> Tale:
    """Start the job, kill as planned, start it again, until it ends by itself with code 0."""
    folder, tale, waiting = RunFolder(run), Tale(), list(kills)
    code = -1
    while code != 0 and tale.starts < _MAX_STARTS:
        tale.starts += 1
        process = subprocess.Popen(command, env=environment(), stdout=sys.stderr)
        family: set[psutil.Process] = set()
        while process.poll() is None:
            with suppress(psutil.Error):
                family |= set(psutil.Process(process.pid).children(recursive=True))
            if waiting and num_committed(folder) >= waiting[0].after:
                time.sleep(waiting[0].delay_s)
                victim = process.pid if waiting[0].kind == "job" else busy_worker(folder, family)
                if victim is not None and process.poll() is None:
                    with suppress(psutil.NoSuchProcess):
                        psutil.Process(victim).kill()
                    kill = waiting.pop(0)
                    tale.killed.append(kill.kind)
                    print(f"killed a {kill.kind} after {num_committed(folder)}", file=sys.stderr)
            time.sleep(_POLL_S)
        code = process.wait()
        end(family)
    return tale


def num_committed(folder: RunFolder) -> int:
    """Volumes that exist; -1 before there is a run, so that nothing is killed in making data."""
    return len(ledger.committed_ids(folder)) if folder.plan.exists() else -1


def busy_worker(folder: RunFolder, family: set[psutil.Process]) -> int | None:
    """A process of the job that is at a volume now, by the attempt records that are open."""
    pids = {process.pid for process in family if process.is_running()}
    for sample in sorted(place.name for place in folder.attempts.iterdir()):
        for attempt in ledger.read_attempts(folder, sample):
            pid = int(attempt.worker.rpartition(":")[2])
            if attempt.outcome is None and pid in pids:
                return pid
    return None


def end(family: set[psutil.Process]) -> None:
    """What a killed job leaves behind ends by itself, or is ended by its process id."""
    _, alive = psutil.wait_procs(family, timeout=_END_S)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=_END_S)


def judge(run: Path, tale: Tale) -> dict[str, Any]:
    """What is there now, against the plan; verify's word."""
    folder = RunFolder(run)
    planned = {row.sample_id for row in iter_plan(folder.plan)}
    there = ledger.committed_ids(folder, whole=True)
    stored = {path.name.removesuffix(".ome.zarr") for path in (run / "volumes").iterdir()}
    verify = subprocess.run(
        script("verify_run.py", "--run", run), env=environment(), stdout=sys.stderr, check=False
    )
    return {
        "bench": "kills",
        "volumes": len(planned),
        "kills": dict(Counter(tale.killed)),
        "restarts": tale.starts - 1,
        "committed": len(there),
        "lost": len(planned - there),
        "duplicated": len((stored | there) - planned) + len(stored - there),
        "tries": sum(len(ledger.read_attempts(folder, name)) for name in planned),
        "verify": verify.returncode,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
