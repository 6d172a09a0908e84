"""Files that no job put into a run are named, removed on request, and harm nothing."""

import os
from pathlib import Path

import pytest

import jobs.verify_run as job
from engine.runs.audit.verify import VerifyJob, verify_run, withdraw
from engine.runs.audit.volume_check import FOREIGN
from engine.runs.export.export import ExportJob, export_run
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.status import read_state

NAMES = [f"case{n}-r00" for n in range(3)]
VOLUME = f"volumes/{NAMES[0]}.ome.zarr"
FILES = [
    f"{VOLUME}/.DS_Store",
    f"{VOLUME}/more",
    f"{VOLUME}/.zarr.json.swp",
    f"{VOLUME}/zarr.json~",
    f"{VOLUME}/labels/._zarr.json",
    f"{VOLUME}/0/c/0/.nfs000000000123",
    f"{VOLUME}/0/c/0/0/._0",
    f"{VOLUME}/0/c/0/0/0.bak",
    f"{VOLUME}/labels/mask/Thumbs.db",
    "volumes/.DS_Store",
    "volumes/desktop.ini",
    f"volumes/._{NAMES[1]}.ome.zarr",
    "commits/.DS_Store",
    f"commits/._{NAMES[1]}.json",
    f"commits/{NAMES[1]} copy.json.bak",
    "commits/notes.json",
    "commits/readme.txt",
]
FOLDERS = [f"{VOLUME}/@eaDir", f"{VOLUME}/0/__MACOSX", f"volumes/{NAMES[0]} copy.ome.zarr"]
READ = ["0/c/9/9/9", "c", "1/zarr.json", "labels/old/zarr.json", ".zattrs", "0/.zarray"]


@pytest.fixture
def folder(own_run: Path) -> RunFolder:
    return RunFolder(own_run)


def litter(folder: RunFolder) -> list[str]:
    root = Path(str(folder.root))
    for name in FILES:
        (root / name).write_text("x")
    for name in FOLDERS:
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep" / "file").write_text("x")
    return sorted([*FILES, *(f"{name}/" for name in FOLDERS[:2]), FOLDERS[2]])


def test_foreign_files_are_named_and_harm_nothing(
    folder: RunFolder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = litter(folder)
    attempt = Path(str(folder.attempts / NAMES[0]))
    (attempt / "0001 copy.json").write_text((attempt / "0001.json").read_text())
    verdict = verify_run(VerifyJob(run=folder.root))
    assert verdict.findings == []
    assert (verdict.planned, verdict.committed, verdict.sound, verdict.leftovers) == (3, 3, 3, [])
    assert {finding.kind for finding in verdict.foreign} == {FOREIGN}
    assert sorted(finding.detail for finding in verdict.foreign) == names
    assert job.main(["--run", str(folder.root)]) == 0
    assert f"{len(names)} foreign files, which harm nothing" in capsys.readouterr().out
    assert len(export_run(ExportJob(run=folder.root))) == 3
    state = read_state(folder)
    assert (state.planned, state.pending, state.barred) == (3, [], [])
    assert len(ledger.read_attempts(folder, NAMES[0])) == 1
    assert all((folder.root / name).exists() for name in names), "looking removes nothing"


def test_repair_removes_foreign_files_and_keeps_the_volume(folder: RunFolder) -> None:
    before = ledger.read_commits(folder, NAMES)
    names = litter(folder)
    repaired = verify_run(VerifyJob(run=folder.root, repair=True))
    assert (repaired.repaired, len(repaired.removed)) == ([], len(names))
    assert not any(os.path.lexists(f"{folder.root}/{name}") for name in names)
    after = verify_run(VerifyJob(run=folder.root))
    assert (after.sound, after.foreign) == (3, [])
    assert ledger.read_commits(folder, NAMES) == before


def test_a_withdrawal_takes_foreign_files_with_the_volume(folder: RunFolder) -> None:
    litter(folder)
    assert NAMES[0] in withdraw(folder, "case0")
    assert not folder.volume(NAMES[0]).exists()


@pytest.mark.parametrize("name", READ)
def test_a_further_file_that_readers_read_is_damage(folder: RunFolder, name: str) -> None:
    path = Path(str(folder.volume(NAMES[0])), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    verdict = verify_run(VerifyJob(run=folder.root))
    assert [(f.sample_id, f.kind, f.detail) for f in verdict.findings] == [
        (NAMES[0], "extra file", name)
    ]
    assert verdict.foreign == []


def test_links_are_judged_by_their_names(folder: RunFolder, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("mine")
    volume = Path(str(folder.volume(NAMES[0])))
    (volume / "shortcut").symlink_to(kept)
    (volume / "gone").symlink_to(tmp_path / "nothing")
    os.mkfifo(volume / "pipe")
    verdict = verify_run(VerifyJob(run=folder.root))
    assert verdict.findings == []
    assert [f.detail.rpartition("/")[2] for f in verdict.foreign] == ["gone", "pipe", "shortcut"]
    verify_run(VerifyJob(run=folder.root, repair=True))
    assert (kept / "file").read_text() == "mine"
    assert not os.path.lexists(volume / "shortcut")
    (volume / "0" / "c" / "0" / "0" / "1").symlink_to(kept / "file")
    (volume / "labels" / "mask" / "0").rename(tmp_path / "away")
    (volume / "labels" / "mask" / "0").symlink_to(tmp_path / "away")
    kinds = {f.detail: f.kind for f in verify_run(VerifyJob(run=folder.root)).findings}
    assert kinds["0/c/0/0/1"] == "link"
    assert kinds["labels/mask/0"] == "link"


def test_exports_lose_only_what_systems_leave(folder: RunFolder) -> None:
    export_run(ExportJob(run=folder.root, layout="nnunet"))
    out = Path(str(folder.root)) / "export_nnunet"
    for name in ("imagesTr/._a_0000.nii.gz", "imagesTr/mine_0000.nii.gz", ".DS_Store", "notes.txt"):
        (out / name).write_text("x")
    verdict = verify_run(VerifyJob(run=folder.root, repair=True))
    assert len(verdict.foreign) == 4
    assert sorted(f.detail for f in verdict.removed) == [
        "export_nnunet/.DS_Store",
        "export_nnunet/imagesTr/._a_0000.nii.gz",
    ]
    assert (out / "notes.txt").exists()
    assert (out / "imagesTr" / "mine_0000.nii.gz").exists()
