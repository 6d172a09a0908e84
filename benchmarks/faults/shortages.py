"""Something is missing that a job needs: the folder to itself, memory, disk space."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.faults.bench import DEADLINE_S, NUM_VOLUMES, Bench, Fault, run_job
from benchmarks.faults.sampler import VICTIM, FakeSampler
from engine.runs import ledger
from engine.runs.folder import RunFolder, RunLock


def two_jobs(bench: Bench, out: Path) -> str:
    """A second job on the folder must be refused, and leave the first one alone."""
    folder = RunFolder(out)
    folder.create()
    with RunLock(folder):
        if bench.child(out, "two jobs").wait(DEADLINE_S) == 0:
            return "the second job was not refused"
    return bench.again(out)


def out_of_memory(bench: Bench, out: Path) -> str:
    """One volume runs out of memory once: the rest is finished, then it is, too."""
    bench.child(out, "memory").wait(DEADLINE_S)
    if len(ledger.committed_ids(RunFolder(out))) != NUM_VOLUMES - 1:
        return "the rest was not finished"
    return bench.again(out)


def full_disk(bench: Bench, out: Path) -> str:
    """A tmpfs with room for two volumes; then more room."""
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return "skipped: this machine allows no mount"
    try:
        if run_job(bench.config(out), FakeSampler(bench.place)) == 0:
            return "the disk was not full"
        subprocess.run(["mount", "-o", "remount,size=256m", str(out)], check=True)
        trouble = bench.again(out)
        shutil.copytree(out, out.with_name("disk-copy"))
    finally:
        subprocess.run(["umount", str(out)], check=True)
    out.rmdir()
    out.with_name("disk-copy").rename(out)
    return trouble


def _short_of_memory(marks: Path) -> FakeSampler:
    return FakeSampler(marks, short=(VICTIM,))


FAULTS = (
    Fault("two jobs", two_jobs),
    Fault("memory", out_of_memory, _short_of_memory),
    Fault("full disk", full_disk),
)
