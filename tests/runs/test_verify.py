"""Damage of every kind is found, named and repaired; withdrawn patients are gone for good."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jobs.verify_run as job
from engine.errors import ConfigError, RunError, StoreError
from engine.runs.audit.verify import VerifyJob, derived_from, verify_run, withdraw
from engine.runs.making.worker import ResampleWorker, WorkerTask
from engine.runs.planning.rows import CaseFacts, build_plan
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder, lock_run
from engine.runs.record.own_files import settle_identity, settle_plan
from engine.runs.record.plan import retry_seed
from engine.runs.record.records import Quality
from engine.runs.record.status import read_state
from engine.runs.record.withdrawal import read_withdrawn
from engine.sampling.config import SamplingConfig
from tests.runs.fakes import IDENTITY, LoadFake, make_data, on_disk

NAMES = [f"case{n}-r00" for n in range(3)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three volumes with slices of other patients, made without Ray."""
    place = tmp_path_factory.mktemp("verify")
    folder = RunFolder(place / "run")
    folder.create()
    settle_identity(folder, IDENTITY)
    task = WorkerTask(
        root=folder.root,
        data=make_data(place / "data"),
        weights=place,
        sampling=SamplingConfig(),
        settings_sha256=IDENTITY.settings_sha256,
        weights_sha256="w",
        code="c",
        num_threads=1,
    )
    facts = {f"case{n}": CaseFacts(12 + 2 * n, True) for n in range(3)}
    rows = build_plan(facts, list(facts), "cross", 1, 5)
    settle_plan(folder, lambda: rows)
    worker = ResampleWorker(task, LoadFake())
    for row in rows:
        assert worker({"plan": row.model_dump_json()})["status"] == "committed"
    return on_disk(folder.root)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> RunFolder:
    import shutil

    shutil.copytree(made, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def shard(folder: RunFolder) -> Path:
    return on_disk(folder.volume(NAMES[0])) / "0" / "c" / "0" / "0" / "0"


def flip(folder: RunFolder) -> None:
    raw = bytearray(shard(folder).read_bytes())
    raw[len(raw) // 2] ^= 1
    shard(folder).write_bytes(bytes(raw))


def tear(folder: RunFolder) -> None:
    shard(folder).write_bytes(shard(folder).read_bytes()[:-9])


def half_a_record(folder: RunFolder) -> None:
    path = folder.commit(NAMES[0])
    path.write_text(path.read_text()[:200])


def foreign_record(folder: RunFolder) -> None:
    folder.commit(NAMES[0]).write_text(folder.commit(NAMES[1]).read_text())


def lose_the_volume(folder: RunFolder) -> None:
    on_disk(folder.volume(NAMES[0])).rename(on_disk(folder.root) / "elsewhere")


def a_second_level(folder: RunFolder) -> None:
    (folder.volume(NAMES[0]) / "1").mkdir()
    (folder.volume(NAMES[0]) / "1/zarr.json").write_text("{}")


DAMAGE: list[tuple[Callable[[RunFolder], object], str]] = [
    (flip, "changed file"),
    (tear, "changed file"),
    (lambda f: shard(f).write_bytes(b""), "empty file"),
    (lambda f: shard(f).unlink(), "missing file"),
    (a_second_level, "extra file"),
    (lambda f: (f.volume(NAMES[0]) / "zarr.json").write_text("{}"), "not OME-Zarr 0.5"),
    (lose_the_volume, "missing volume"),
    (half_a_record, "bad commit record"),
    (foreign_record, "bad commit record"),
]


def test_a_sound_run_is_called_sound(folder: RunFolder) -> None:
    verdict = verify_run(VerifyJob(run=folder.root))
    assert (verdict.planned, verdict.committed, verdict.sound) == (3, 3, 3)
    assert verdict.is_sound
    assert not verdict.findings
    assert not verdict.leftovers
    assert job.main(["--run", str(folder.root)]) == 0


@pytest.mark.parametrize(("damage", "kind"), DAMAGE)
def test_damage_is_found_repaired_and_planned_again(
    folder: RunFolder, damage: Callable[[RunFolder], object], kind: str
) -> None:
    damage(folder)
    verdict = verify_run(VerifyJob(run=folder.root))
    assert kind in {finding.kind for finding in verdict.findings}
    assert {finding.sample_id for finding in verdict.findings} == {NAMES[0]}
    assert not verdict.is_sound
    assert verify_run(VerifyJob(run=folder.root)).findings == verdict.findings, "looking is safe"
    repaired = verify_run(VerifyJob(run=folder.root, repair=True))
    assert repaired.repaired == [NAMES[0]]
    assert repaired.is_sound
    assert not folder.commit(NAMES[0]).exists()
    assert not folder.volume(NAMES[0]).exists()
    assert [name for _, name, _ in read_state(folder).pending] == [NAMES[0]]
    assert verify_run(VerifyJob(run=folder.root)).is_sound


def test_a_volume_without_its_record_is_no_damage_but_goes(folder: RunFolder) -> None:
    folder.commit(NAMES[0]).unlink()
    verdict = verify_run(VerifyJob(run=folder.root))
    assert (verdict.is_sound, verdict.leftovers, verdict.missing) == (True, [NAMES[0]], 1)
    verify_run(VerifyJob(run=folder.root, repair=True))
    assert not folder.volume(NAMES[0]).exists()


def test_a_record_that_nobody_planned_is_damage(folder: RunFolder) -> None:
    folder.commit("stranger").write_text(folder.commit(NAMES[0]).read_text())
    (finding,) = verify_run(VerifyJob(run=folder.root)).findings
    assert (finding.sample_id, finding.kind) == ("stranger", "not planned")


def edit(folder: RunFolder, name: str, change: dict[str, object]) -> None:
    """A record that says something else, with a digest that fits it."""
    record = ledger.read_commit(folder, name)
    assert record is not None
    text = record.model_copy(update=change).sealed().model_dump_json(indent=1)
    folder.commit(name).write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"case_id": "case2"}, "case case2, planned case0"),
        ({"informed_z": 9}, ":9, planned"),
        ({"weights_sha256": "v"}, "weights v, planned w"),
        ({"config_sha256": "t"}, "settings t, planned"),
        ({"row_sha256": "r"}, "row r, planned"),
        ({"seed": 6}, "seed 6, planned 5"),
        ({"quality": Quality(retries=1)}, "seed 5, planned"),
    ],
)
def test_a_volume_made_of_something_else_is_damage(
    folder: RunFolder, change: dict[str, object], message: str
) -> None:
    edit(folder, NAMES[0], change)
    (finding,) = verify_run(VerifyJob(run=folder.root)).findings
    assert (finding.sample_id, finding.kind) == (NAMES[0], "other origin")
    assert message in finding.detail


def test_the_seed_of_a_retry_is_computed_again(folder: RunFolder) -> None:
    edit(folder, NAMES[0], {"quality": Quality(retries=2), "seed": retry_seed(5, NAMES[0], 2)})
    assert verify_run(VerifyJob(run=folder.root)).is_sound


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"measures": {"seam_ratio": 9.0}},
        {"quality": {"flags": ["dark"], "retries": 0}},
        {"timings_s": {}},
        {"digest": ""},
        {"digest": "0" * 64},
    ],
)
def test_a_record_edited_by_hand_is_damage(folder: RunFolder, change: dict[str, Any]) -> None:
    path = folder.commit(NAMES[0])
    raw = json.loads(path.read_text())
    for key, value in change.items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) and value else value
    path.write_text(json.dumps(raw, indent=1))
    (finding,) = verify_run(VerifyJob(run=folder.root)).findings
    assert (finding.sample_id, finding.kind) == (NAMES[0], "bad commit record")
    assert "digest of itself" in finding.detail or "changed after it was" in finding.detail


def test_a_plan_that_was_changed_later_is_refused(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify_run(VerifyJob(run=folder.root)).is_sound
    subprocess.run(
        ["sha256sum", "--check", folder.plan_digest.name], cwd=on_disk(folder.root), check=True
    )
    folder.plan.write_text(folder.plan.read_text().replace('"informed_z":', '"informed_z":1', 1))
    with pytest.raises(StoreError, match="changed after it was planned"):
        verify_run(VerifyJob(run=folder.root))
    assert job.main(["--run", str(folder.root), "--repair"]) == 2
    assert "changed after it was planned" in capsys.readouterr().err
    assert folder.commit(NAMES[0]).exists(), "nothing is deleted by another plan"


@pytest.mark.parametrize("what", ["its bytes", "its folder"])
def test_repair_names_what_it_cannot_remove(
    folder: RunFolder,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flip(folder)
    unlink, rename = os.unlink, Path.rename

    def held(path: Any, *args: Any, **more: Any) -> None:
        if os.fspath(path) == "0":  # a shard
            raise PermissionError(1, "Operation not permitted", path)
        unlink(path, *args, **more)

    def stuck(path: Path, target: Path) -> Path:
        if path == folder.volume(NAMES[0]):
            raise PermissionError(1, "Operation not permitted", str(path))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", held) if what == "its bytes" else None
        patch.setattr(Path, "rename", stuck) if what == "its folder" else None
        assert job.main(["--run", str(folder.root), "--repair"]) == 1
        told = capsys.readouterr().out
        assert "files of deleted volumes cannot be removed" in told
        assert "(Operation not permitted)" in told
    assert ledger.existing(folder, NAMES[0]) is None, "it does not exist for any reader"
    assert job.main(["--run", str(folder.root), "--repair"]) == 0
    assert not any(folder.staging.iterdir())
    assert not folder.volume(NAMES[0]).exists()


def test_half_a_record_is_made_again_even_without_repair(folder: RunFolder) -> None:
    half_a_record(folder)
    assert [name for _, name, _ in read_state(folder).pending] == [NAMES[0]]


def test_what_a_patient_is_part_of(folder: RunFolder) -> None:
    rows = derived_from(folder, "case0")
    assert {row.sample_id for row in rows} >= {NAMES[0]}
    for row in rows:
        assert "case0" in (row.case_id, row.informed_case)
    with pytest.raises(RunError, match=r"nobody: no volume .* case0, case1, case2"):
        derived_from(folder, "nobody")


def test_a_withdrawn_patient_is_gone_for_good(folder: RunFolder) -> None:
    folder.report.write_text("pictures")
    folder.summary.write_text("{}")
    expected = [row.sample_id for row in derived_from(folder, "case0")]
    exported = folder.root / "export" / "images" / f"{expected[0]}.nii.gz"
    exported.parent.mkdir(parents=True)
    exported.write_bytes(b"")
    assert withdraw(folder, "case0") == expected
    for name in expected:
        assert not folder.commit(name).exists()
        assert not folder.volume(name).exists()
    assert not exported.exists()
    assert not folder.report.exists()
    assert not folder.summary.exists()
    state = read_state(folder)
    assert (state.withdrawn, state.pending) == (len(expected), [])
    assert verify_run(VerifyJob(run=folder.root)).is_sound
    assert withdraw(folder, "case0") == expected, "the same call again is harmless"
    assert read_withdrawn(folder) == {"case0"}


def test_a_withdrawal_that_was_cut_off_is_noticed(folder: RunFolder) -> None:
    folder.withdrawn.write_text(json.dumps({"cases": ["case0"]}))
    verdict = verify_run(VerifyJob(run=folder.root))
    assert {finding.kind for finding in verdict.findings} == {"withdrawn"}
    folder.withdrawn.write_text("{")
    with pytest.raises(StoreError, match="cannot read which cases were withdrawn"):
        read_state(folder)


def test_what_changes_a_run_waits_for_its_lock(folder: RunFolder) -> None:
    with lock_run(folder):
        verify_run(VerifyJob(run=folder.root))
        for change in (
            lambda: verify_run(VerifyJob(run=folder.root, repair=True)),
            lambda: withdraw(folder, "case0"),
        ):
            with pytest.raises(RunError, match="another job is at work"):
                change()
    assert not read_withdrawn(folder)


def test_the_command_says_what_it_found(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run", str(folder.root)]
    tear(folder)
    assert job.main(run) == 1
    out = capsys.readouterr().out
    assert "changed file" in out
    assert "0/c/0/0/0" in out
    assert "3 planned, 3 committed, 2 sound, 1 damaged, 0 deleted" in out
    assert job.main([*run, "--repair"]) == 0
    assert "start the run's job again" in capsys.readouterr().out
    assert job.main([*run, "--derived-from", "case1"]) == 0
    assert "case1-r00" in capsys.readouterr().out
    assert job.main([*run, "--withdraw", "case1"]) == 0
    assert "withdrawn" in capsys.readouterr().out
    assert job.main([*run, "--derived-from", "nobody"]) == 2
    assert capsys.readouterr().err.startswith("error: nobody")


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--run"):
        verify_run(VerifyJob())
    with pytest.raises(RunError, match="not a run folder"):
        verify_run(VerifyJob(run=tmp_path))


def test_another_reader_agrees_on_the_metadata(folder: RunFolder) -> None:
    models = pytest.importorskip("ome_zarr_models.v05.image")
    import zarr

    models.Image.from_zarr(zarr.open_group(str(folder.volume(NAMES[0])), mode="r"))


def test_records_end_the_way_the_census_expects(folder: RunFolder) -> None:
    assert ledger.committed_ids(folder, whole=True) == ledger.committed_ids(folder) == set(NAMES)
