"""A run folder that people, other tools or a power cut left odd: made whole, or refused by name."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from engine.errors import EngineError
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.jobs.resample import ResampleConfig, resample
from tests.runs.fakes import LoadFake

VOLUME = "case1-r00"


@pytest.fixture
def run(whole: ResampleConfig, tmp_path: Path) -> Path:
    """A copy in which one volume is to be made."""
    shutil.copytree(str(whole.out), tmp_path / "run")
    (tmp_path / "run" / "commits" / f"{VOLUME}.json").unlink()
    return tmp_path / "run"


def go_on(whole: ResampleConfig, run: Path) -> int:
    """The job once more; returns how many volumes verification finds sound."""
    resample(whole.model_copy(update={"out": run}), LoadFake())
    verdict = verify_run(VerifyJob(run=run))
    assert not verdict.findings
    return verdict.sound


def nuls(name: str) -> Callable[[Path], None]:
    """Bytes of a file that a power cut left without its data."""

    def spoil(run: Path) -> None:
        with (run / name).open("ab") as file:
            file.write(b"\0" * 5000 + b"\n\xff\xfe\n")

    return spoil


def long_line(run: Path) -> None:
    (run / "failures.jsonl").write_text('{"sample_id": "' + "y" * 20_000_000 + '"}\n')
    (run / "progress.jsonl").write_text("z" * 20_000_000)


def old_and_new_times(run: Path) -> None:
    for file in run.rglob("*"):
        os.utime(file, (0, 0))
    os.utime(run / "lock", (4e9, 4e9))


def attempt_of_the_future(run: Path) -> None:
    file = next((run / "attempts" / VOLUME).glob("*.json"))
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "started_at": 4e9, "outcome": None}))


def huge_lock(run: Path) -> None:
    (run / "lock").write_text("9" * 10_000_000)


def lock_with_a_large_number(run: Path) -> None:
    record = json.loads((run / "lock").read_text())
    (run / "lock").write_text(json.dumps({**record, "number": 10**30}))


def file_for_a_volume(run: Path) -> None:
    volume = run / "volumes" / f"{VOLUME}.ome.zarr"
    shutil.rmtree(volume)
    volume.write_text("not a folder")


def link_for_a_volume(run: Path) -> None:
    volume = run / "volumes" / f"{VOLUME}.ome.zarr"
    shutil.move(volume, run.parent / "elsewhere")
    volume.symlink_to(run.parent / "elsewhere")


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    "spoil",
    [
        *(nuls(name) for name in ("progress.jsonl", "failures.jsonl", "volumes.jsonl", "lock")),
        *(nuls(name) for name in ("summary.json", "cohort.json", "plan.sha256")),
        long_line,
        old_and_new_times,
        attempt_of_the_future,
        huge_lock,
        lock_with_a_large_number,
        file_for_a_volume,
        link_for_a_volume,
    ],
)
def test_an_odd_run_is_made_whole(
    whole: ResampleConfig, run: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(run)
    assert go_on(whole, run) == 3
    if spoil is link_for_a_volume:
        assert any((run.parent / "elsewhere").rglob("zarr.json")), "what it pointed to is gone"


def reseal(run: Path, lines: list[str]) -> None:
    """Somebody who edits a plan, and mends its digest."""
    text = "".join(lines)
    (run / "plan.jsonl").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (run / "plan.sha256").write_text(f"{digest}  plan.jsonl\n")


def double_a_row(run: Path) -> None:
    lines = (run / "plan.jsonl").read_text().splitlines(keepends=True)
    reseal(run, [lines[1], *lines])


def unknown_field(run: Path) -> None:
    lines = (run / "plan.jsonl").read_text().splitlines()
    reseal(run, [json.dumps({**json.loads(line), "colour": "red"}) + "\n" for line in lines])


def commits_elsewhere(run: Path) -> None:
    shutil.move(run / "commits", run.parent / "commits")
    (run / "commits").symlink_to(run.parent / "commits")


def code_in_yaml(run: Path) -> None:
    (run / "run.yaml").write_text("!!python/object/apply:os.mkdir ['struck']")


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (nuls("plan.jsonl"), "changed after it was planned"),
        (double_a_row, "two volumes would have this name"),
        (unknown_field, "not a plan row of this version"),
        (commits_elsewhere, "a link, and jobs delete what lies there"),
        (code_in_yaml, "not a run description"),
        (nuls("run.yaml"), "not a run description"),
    ],
)
def test_an_odd_run_is_refused(
    whole: ResampleConfig, run: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(run)
    with pytest.raises(EngineError, match=words):
        go_on(whole, run)
    with pytest.raises(EngineError, match=words):
        verify_run(VerifyJob(run=run))


@pytest.mark.usefixtures("no_ray")
def test_a_run_and_its_copy_go_on_side_by_side(
    whole: ResampleConfig, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "copy")
    assert go_on(whole, run) == go_on(whole, tmp_path / "copy") == 3


@pytest.fixture
def clock_that_goes_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    now, calls = time.time, count()
    monkeypatch.setattr(time, "time", lambda: now() - 1000 * next(calls))
    yield


@pytest.mark.usefixtures("no_ray", "clock_that_goes_back")
def test_a_clock_that_goes_back_changes_nothing(whole: ResampleConfig, run: Path) -> None:
    assert go_on(whole, run) == 3


@pytest.mark.usefixtures("no_ray")
def test_many_foreign_records_are_named_and_harm_nothing(whole: ResampleConfig, run: Path) -> None:
    for number in range(500):
        (run / "commits" / f"x{number}.json").touch()
    assert go_on(whole, run) == 3
    assert len(verify_run(VerifyJob(run=run)).foreign) == 500
