"""The bench that kills: its draws repeat, and it restarts a job until that ends by itself."""

import sys
from pathlib import Path

import psutil

from bench_kills import KINDS, Kill, busy_worker, draw_kills, parse, play
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder

JOB = """
import os, sys, time
from pathlib import Path
run = Path(sys.argv[1])
for name in ("commits", "attempts"):
    (run / name).mkdir(parents=True, exist_ok=True)
(run / "plan.jsonl").touch()
with (run / "starts").open("a") as file:
    file.write("x")
for n in range(8):
    if not (run / "commits" / f"s{n}.json").exists():
        time.sleep(0.3)
        (run / "commits" / f"s{n}.json").touch()
"""


def test_kills_are_spread_over_the_run_and_repeat() -> None:
    options = parse(["--seed", "3"])
    kills = draw_kills(options)
    assert kills == draw_kills(options)
    assert len(kills) == 10
    assert {kill.kind for kill in kills} == set(KINDS)
    assert [kill.after for kill in kills] == sorted(kill.after for kill in kills)
    assert kills[0].after >= 0
    assert kills[-1].after < 300
    assert kills != draw_kills(parse(["--seed", "4"]))
    quick = parse(["--quick"])
    assert (quick.volumes, len(draw_kills(quick))) == (20, 3)


def test_a_killed_job_is_started_again(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(JOB)
    kills = [Kill("job", 1, 0.0), Kill("job", 4, 0.1)]
    tale = play([sys.executable, str(script), str(tmp_path / "run")], tmp_path / "run", kills)
    assert tale.killed == ["job", "job"]
    assert tale.starts == 3
    assert (tmp_path / "run" / "starts").read_text() == "xxx"
    assert len(ledger.committed_ids(RunFolder(tmp_path / "run"))) == 8


def test_a_worker_is_killed_while_it_works(tmp_path: Path) -> None:
    me = psutil.Process()
    folder = RunFolder(tmp_path)
    folder.create()
    assert busy_worker(folder, {me}) is None
    attempt = ledger.begin_attempt(folder, "s0", f"here:{me.pid}")
    assert busy_worker(folder, {me}) == me.pid
    assert busy_worker(folder, set()) is None, "not of this job"
    ledger.fail(folder, attempt, "told to")
    assert busy_worker(folder, {me}) is None
