"""What is cut off, or finds no room, at any of its file operations, the same command mends."""

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.export.export import ExportJob, export_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import iter_plan
from engine.volumes.store import hash_tree
from tests.runs.fakes import FakeSampler, LoadFake

POINTS = 10
"""Places where a command is cut off, spread over all of its file operations."""


class Killed(BaseException):
    """The process is gone: it does nothing any more, not even what stands in `finally`."""


class Disk:
    """Counts what changes the disk, and fails from the nth time on.

    Args:
        fail_at: the first operation that fails; 0 only counts.
        error: what it raises.
        forever: False lets what takes no room go on, as on a full disk.
    """

    def __init__(self, fail_at: int, error: Callable[[], BaseException], forever: bool) -> None:
        self.count, self._fail_at, self._error, self._forever = 0, fail_at, error, forever

    def change(self, takes_room: bool) -> None:
        self.count += 1
        if self._fail_at and self.count >= self._fail_at and (takes_room or self._forever):
            raise self._error()


@contextmanager
def struck(disk: Disk) -> Iterator[None]:
    """This process's file operations go through `disk`."""

    def counted(function: Callable[..., Any], takes_room: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            disk.change(takes_room)
            return function(*args, **kwargs)

        return call

    real_open = io.open

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wxa+"):
            disk.change(takes_room=True)
        return real_open(file, mode, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("unlink", "rmdir", "rename", "replace"):
            patch.setattr(os, name, counted(getattr(os, name), takes_room=False))
        for name in ("mkdir", "write"):
            patch.setattr(os, name, counted(getattr(os, name), takes_room=True))
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        yield


def killed() -> BaseException:
    return Killed()


def full() -> BaseException:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def copy_of(whole: ResampleConfig, place: Path) -> ResampleConfig:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(str(whole.out), place, symlinks=True)
    return whole.model_copy(update={"out": place})


def job(config: ResampleConfig) -> None:
    resample(config, LoadFake(FakeSampler()))


def repair(config: ResampleConfig) -> None:
    verify_run(VerifyJob(run=config.out, repair=True))


def export(config: ResampleConfig) -> None:
    out = Path(str(config.out)).with_name("exported")
    export_run(ExportJob(run=config.out, out=out, layout="nnunet"))


def make_again(config: ResampleConfig) -> None:
    """All volumes are to be made."""
    for row in list(iter_plan(RunFolder(config.out).plan)):
        ledger.delete(RunFolder(config.out), row.sample_id)


def damage(config: ResampleConfig) -> None:
    """Two volumes are not what was committed."""
    for name in ("case0-r00", "case2-r00"):
        shard = Path(str(RunFolder(config.out).volume(name))) / "0" / "c" / "0" / "0" / "0"
        shard.write_bytes(shard.read_bytes()[:-1])


def forget_export(config: ResampleConfig) -> None:
    shutil.rmtree(Path(str(config.out)).with_name("exported"), ignore_errors=True)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("end", [killed, full])
@pytest.mark.parametrize(
    ("command", "before"), [(job, make_again), (repair, damage), (export, forget_export)]
)
def test_what_is_cut_off_anywhere_is_mended_by_the_same_command(
    whole: ResampleConfig,
    tmp_path: Path,
    command: Callable[[ResampleConfig], None],
    before: Callable[[ResampleConfig], None],
    end: Callable[[], BaseException],
) -> None:
    config = copy_of(whole, tmp_path / "run")
    before(config)
    with struck(counting := Disk(0, end, forever=True)):
        command(config)
    assert counting.count > POINTS
    for point in range(1, counting.count + 1, max(1, counting.count // POINTS)):
        config = copy_of(whole, tmp_path / "run")
        before(config)
        with struck(Disk(point, end, forever=end is killed)), suppress(Killed, EngineError):
            command(config)
        command(config)
        job(config)
        check(whole, config, point)
        if command is export:
            names = sorted(p.name for p in (tmp_path / "exported").rglob("*") if p.is_file())
            assert len(names) == 8, (point, names)  # images, masks, description and records


def check(whole: ResampleConfig, config: ResampleConfig, point: int) -> None:
    """All volumes are there, as they were made undisturbed, and nothing else is."""
    verdict = verify_run(VerifyJob(run=config.out))
    assert (verdict.sound, verdict.findings, verdict.leftovers) == (3, [], []), point
    folder, first = RunFolder(config.out), RunFolder(whole.out)
    assert not list(folder.staging.iterdir()), point
    for row in iter_plan(folder.plan):
        assert hash_tree(folder.volume(row.sample_id)) == hash_tree(first.volume(row.sample_id))
        assert ledger.num_failures(folder, row.sample_id) == 0, point
