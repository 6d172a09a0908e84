"""Run folders that were edited, damaged or laid as traps, given to every job that reads one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import jobs.export_volumes as export_job
import jobs.resample_abdomen as resample_job
import jobs.verify_run as verify_job
from engine.runs.record.folder import RunFolder
from engine.runs.record.own_files import seal_plan
from tests.hostile import spoiled
from tests.hostile.room import Attack, Main, Place, attack
from tests.runs.fakes import make_data, make_weights, on_disk

NAME = "case1-r00"
Harm = Callable[[Path], object]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, weights and a place for the run that `made` makes once."""
    root = tmp_path_factory.mktemp("finished")
    make_data(root / "data")
    make_weights(root / "weights")
    return root


@pytest.fixture
def made(finished: Path, place: Place) -> Place:
    """A place with a finished run of three volumes in `out`, and a file that is not its own."""
    kept = finished / "out"
    args = ["--data", "data", "--weights", "weights", "--informed", "own", "--num-pictured", "0"]
    if not kept.exists():
        given = ["--data", str(finished / "data"), "--weights", str(finished / "weights")]
        assert resample_job.main([*given, *args[4:], "--out", str(kept)]) == 0
    for name in ("data", "weights", "out"):
        shutil.copytree(finished / name, place.root / name)
    place.file("outside/precious.txt", "mine")
    place.file("outside/precious.json", "{}")
    return place


def harmed(harm: Harm, expected: str, *more: str, code: int = 2) -> Attack:
    """The run is harmed; the job gets it, and `more`."""

    def args(place: Place) -> list[str]:
        harm(place.out)
        return ["--run", "out", *more]

    return Attack(args, expected, code)


def _edit(name: str, edit: Callable[[str], str], *, sealed: bool = False) -> Harm:
    """Change a file; the plan is sealed anew, so that its rows are what is judged."""

    def harm(out: Path) -> None:
        (out / name).write_text(edit((out / name).read_text()))
        if name == "plan.jsonl" and not sealed:
            seal_plan(RunFolder(out))

    return harm


def _row(**changes: object) -> Harm:
    """The plan's second row says something else."""

    def edit(text: str) -> str:
        rows = [json.loads(line) for line in text.splitlines()]
        rows[1].update(changes)
        return "".join(json.dumps(row) + "\n" for row in rows)

    return _edit("plan.jsonl", edit)


def _link(name: str, target: str = "../../outside") -> Harm:
    def harm(out: Path) -> None:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return harm


def _moved_away(out: Path) -> None:
    """The volume lies outside, byte for byte; a link stands in its place."""
    volume = on_disk(RunFolder(out).volume(NAME))
    volume.rename(out.parent / "outside" / volume.name)
    volume.symlink_to(out.parent / "outside" / volume.name)


def _linked_shard(out: Path) -> None:
    shard = on_disk(RunFolder(out).volume(NAME)) / "0" / "c" / "0" / "0" / "0"
    shard.rename(out.parent / "outside" / "shard")
    shard.symlink_to(out.parent / "outside" / "shard")


def _copy(folder: RunFolder, name: str, to: str) -> None:
    shutil.copy(on_disk(folder.commit(name)), on_disk(folder.commit(to)))


def _foreign_record(out: Path) -> None:
    folder = RunFolder(out)
    _copy(folder, "case2-r00", NAME)


def _unplanned(out: Path) -> None:
    folder = RunFolder(out)
    _copy(folder, NAME, "extra")


def _no_commits(out: Path) -> None:
    for path in (out / "commits").iterdir():
        path.unlink()


def nothing(_: Path) -> None:
    pass


UP = "../../outside/precious"
VERIFY = {
    "no run": Attack(lambda p: ["--run", str(p.data)], "data: not a run folder .*plan.jsonl"),
    "nothing given": Attack(lambda _: [], "no run folder; give --run"),
    "plan with a path": harmed(_row(sample_id=UP), r"plan\.jsonl:2: not a plan row", "--repair"),
    "withdrawing a path": harmed(_row(sample_id=UP), r"jsonl:2: not a", "--withdraw", "case1"),
    "plan with a wildcard": harmed(_row(sample_id="*"), r"l:2: not a plan", "--withdraw", "case1"),
    "plan cut off": harmed(_edit("plan.jsonl", lambda t: t[:-90]), r"plan\.jsonl:3: not a plan"),
    "plan changed": harmed(
        _edit("plan.jsonl", lambda t: t.replace("case1-r00", "case9-r00"), sealed=True),
        "changed after it was planned .*put back the plan",
        "--repair",
    ),
    "volumes elsewhere": harmed(_link("volumes", "../outside"), "volumes: a link, and jobs delete"),
    "commits elsewhere": harmed(
        _link("commits", "../outside"), "commits: a link, and jobs", "--withdraw", "case1"
    ),
    "lock elsewhere": harmed(
        _link("lock", "../outside/precious.txt"), "lock: cannot be locked .*levels", "--repair"
    ),
    "unknown case": harmed(nothing, r"\.\./case1: no volume of", "--withdraw", "../case1"),
    "withdrawn, unreadable": harmed(
        lambda out: (out / "withdrawn.json").write_text("[1"), "cannot read which cases"
    ),
    "a volume elsewhere": harmed(_moved_away, f"{NAME} +link +.* points to", code=1),
    "a shard elsewhere": harmed(_linked_shard, f"{NAME} +link +0/c/0/0/0", code=1),
    "record of another": harmed(_foreign_record, "bad commit record .*'case2-r00'", code=1),
    "record of nothing": harmed(_unplanned, "extra +not planned", code=1),
}
EXPORT = {
    "no run": Attack(lambda p: ["--run", str(p.data)], "data: not a run folder .*give one"),
    "nothing given": Attack(lambda _: [], "no run to export; give --run"),
    "onto the run": harmed(nothing, "out: holds files that no export", "--out", "out"),
    "onto a foreign folder": harmed(nothing, "outside: holds files that no", "--out", "outside"),
    "onto a file": harmed(
        nothing, r"precious\.txt: cannot be written .*exists", "--out", "outside/precious.txt"
    ),
    "half a record": harmed(
        _edit(f"commits/{NAME}.json", lambda text: text[:200]), "cannot read this commit record"
    ),
    "no volume": harmed(
        lambda out: shutil.rmtree(on_disk(RunFolder(out).volume(NAME))),
        "no files there; make it again",
    ),
    "plan with a path": harmed(_row(sample_id=UP), r"plan\.jsonl:2: not a plan row of"),
    "nothing committed": harmed(
        _no_commits,
        "no volume is committed",
    ),
    "unknown layout": harmed(nothing, "`layout`: Input should be", "--config", "layout.yaml"),
}


def _rerun(harm: Harm, expected: str, *more: str) -> Attack:
    def args(place: Place) -> list[str]:
        harm(place.out)
        return place.usual("--informed", "own", "--num-pictured", "0", *more)

    return Attack(args, expected)


RESAMPLE = {
    "run.yaml edited": _rerun(
        _edit("run.yaml", lambda t: t.replace("replicas: 1", "replicas: 7")), "replicas was 7"
    ),
    "run.yaml of objects": _rerun(
        lambda out: (out / "run.yaml").write_text("!!python/object:os.system {}"), "run.yaml: not a"
    ),
    "run.yaml a bomb": _rerun(
        lambda out: (out / "run.yaml").write_text(spoiled.yaml_bomb("settings")), "run description"
    ),
    "other weights": _rerun(
        lambda out: _touch(out.parent / "weights" / "config.json"), r"weights\.config\.json was"
    ),
    "plan of negative slices": _rerun(_row(informed_z=-1), r"plan\.jsonl:2: not a plan row"),
    "plan of fewer rows": _rerun(
        _edit("plan.jsonl", lambda t: t.partition("\n")[0] + "\n", sealed=True),
        r"plan\.jsonl: changed after it was planned",
    ),
    "staging elsewhere": _rerun(_link("staging", "../outside"), "staging: a link, and jobs"),
    "attempt unreadable": _rerun(
        lambda out: _forget(out, "{"), r"0001\.json: cannot read this attempt record"
    ),
}


def _touch(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


def _forget(out: Path, attempt: str) -> None:
    (out / "commits" / f"{NAME}.json").unlink()
    (out / "attempts" / NAME / "0001.json").write_text(attempt)


def _outside(place: Place) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (place.root / "outside").rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("main", "case"),
    [
        pytest.param(job.main, case, id=f"{job.__name__}-{name}")
        for job, table in (
            (verify_job, VERIFY),
            (export_job, EXPORT),
            (resample_job, RESAMPLE),
        )
        for name, case in table.items()
    ],
)
def test_jobs_on_a_finished_run(
    main: Main, case: Attack, made: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    made.file("layout.yaml", "layout: dicom")
    attack(main, case, made, capsys)


@pytest.mark.parametrize("harm", [_moved_away, _linked_shard])
@pytest.mark.parametrize("order", [("--repair",), ("--withdraw", "case1")])
def test_what_a_link_points_to_is_not_deleted(
    harm: Harm, order: tuple[str, ...], made: Place
) -> None:
    harm(made.out)
    before = _outside(made)
    assert verify_job.main(["--run", "out", *order]) == 0
    assert _outside(made) == before
    assert not on_disk(RunFolder(made.out).volume(NAME)).is_symlink()
    assert not list((made.out / "staging").iterdir()), "nor is the link kept"
    assert verify_job.main(["--run", "out"]) == 0


def test_withdrawing_leaves_exports_outside_alone(made: Place) -> None:
    assert export_job.main(["--run", "out"]) == 0
    (made.out / "export" / "images").rename(made.root / "outside" / "images")
    (made.out / "export" / "images").symlink_to(made.root / "outside" / "images")
    before = _outside(made)
    assert verify_job.main(["--run", "out", "--withdraw", "case1"]) == 0
    assert _outside(made) == before
    assert not (made.out / "export" / "labels" / f"{NAME}.nii.gz").exists()


def test_two_runs_do_not_export_into_one_folder(
    made: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_job.main(["--run", "out", "--out", "exported"]) == 0
    assert export_job.main(["--run", "out", "--out", "exported"]) == 0
    _row(replica=3)(made.out)
    assert export_job.main(["--run", "out", "--out", "exported"]) == 2
    assert "exported: holds the export of another run; choose" in capsys.readouterr().err


def test_a_damaged_summary_is_written_anew(made: Place) -> None:
    sound = json.loads((made.out / "summary.json").read_text())
    (made.out / "summary.json").write_text('{"planned": 99')
    assert resample_job.main(made.usual("--informed", "own", "--num-pictured", "0")) == 0
    assert json.loads((made.out / "summary.json").read_text())["planned"] == sound["planned"]
