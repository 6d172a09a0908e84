"""Something is missing that a job needs: the folder to itself, memory, disk space."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import RunError
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_run
from engine.sampling.request import SampledVolume, SampleRequest
from faults.bench import DEADLINE_S, NUM_VOLUMES, Bench, Fault, run_job
from faults.sampler import VICTIM, FakeSampler


def two_jobs(bench: Bench, out: Path) -> str:
    """A second job on the folder must be refused, and leave the first one alone."""
    folder = RunFolder(out)
    folder.create()
    with lock_run(folder):
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


@dataclass(frozen=True)
class SealingSampler(FakeSampler):
    """Makes the run folder read-only at one sample, the first time.

    Attributes:
        sealed: the run folder.
    """

    sealed: Path = Path()

    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume; there may be no place for it."""
        if request.sample_id == VICTIM and self._first_time("sealed"):
            # over the folder, not remounted: the job's own open files would forbid that
            for mount in (["--bind", self.sealed], ["-o", "remount,ro,bind"]):
                subprocess.run(["mount", *map(str, mount), str(self.sealed)], check=True)
        return super().sample(request, on_window)


def read_only(bench: Bench, out: Path) -> str:
    """The run folder turns read-only in mid-volume, then is writable again."""
    out.mkdir()
    trial = ["mount", "--bind", str(out), str(out)]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        return "skipped: this machine allows no mount"
    subprocess.run(["umount", str(out)], check=True)
    try:
        run_job(bench.config(out), SealingSampler(bench.place, sealed=out))
        return "the job ended well on a read-only folder"
    except RunError:
        pass  # the report cannot be written
    finally:
        subprocess.run(["umount", str(out)], check=True)
    trouble = bench.again(out)
    held = ledger.num_failures(RunFolder(out), VICTIM)
    return trouble or ("it was held against the volume" if held else "")


def _short_of_memory(marks: Path) -> FakeSampler:
    return FakeSampler(marks, short=(VICTIM,))


FAULTS = (
    Fault("two jobs", two_jobs),
    Fault("memory", out_of_memory, _short_of_memory),
    Fault("full disk", full_disk),
    Fault("read-only", read_only),
)
