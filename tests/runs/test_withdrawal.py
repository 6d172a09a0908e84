"""A withdrawn patient: every byte of theirs is gone from run and exports, or named, and stays gone.

The tests search all files for the patient's voxels, as they were written and decoded.
"""

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import jobs.verify_run as job
from engine.errors import RunError, StoreError
from engine.runs.audit.verify import VerifyJob, derived_from, verify_run
from engine.runs.audit.withdraw import withdraw_patient
from engine.runs.export.export import ExportJob, export_run
from engine.runs.export.records import open_records, read_records
from engine.runs.making.worker import ResampleWorker
from engine.runs.planning.informed_slices import find_slices
from engine.runs.planning.rows import CaseFacts, PlanSettings, plan_rows
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import RunIdentity, hash_file
from engine.runs.record.ledger.renamed import RenamedVolumes
from engine.runs.record.own_files import settle_identity, settle_plan
from engine.runs.record.patients import find_patient
from engine.runs.record.plan import iter_plan
from engine.runs.record.status import read_state
from engine.runs.record.withdrawal import WithdrawnError, read_withdrawn, remember
from engine.volumes.prepared.store import read_prepared
from engine.volumes.store import hash_tree
from tests.runs.fakes import IDENTITY, PREPARE, LoadFake
from tests.runs.withdrawable import CASES, make_run_to_withdraw_from, worker_task

GONE = {
    *("pat7_a-own-r00", "pat7_b-own-r00", "pat7_a-cross-r00", "pat7_b-cross-r00"),
    "pat9_a-cross-r00",  # with a slice of pat7_b
    *(f"{case}-fixed-r00" for case in CASES),
}
LEFT = {"pat70_a-own-r00", "pat70_a-cross-r00", "pat9_a-own-r00"}
KEEPS_NAMES = {"run/plan.jsonl", "run/withdrawn.json"}
"""And run.yaml that of the slice file."""


@dataclass
class Made:
    """A finished run with slices of `ref.nii.gz`, which is pat7_a's image, and two exports."""

    place: Path

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.place / "run")

    @property
    def dataset(self) -> Path:
        return self.place / "Dataset901_Made"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run_to_withdraw_from(tmp_path_factory.mktemp("withdrawal"))


@pytest.fixture
def made(finished: Path, tmp_path: Path) -> Made:
    shutil.copytree(finished, tmp_path / "made")
    return Made(tmp_path / "made")


def _decoded(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every file's bytes, unpacked where they are packed, and every Zarr array's voxels."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root.parent).as_posix()
        if path.is_file():
            yield name, path.read_bytes()
            if path.name.endswith(".nii.gz"):
                yield name, gzip.decompress(path.read_bytes())[352:]
            if path.name == "zarr.json" and json.loads(path.read_text())["node_type"] == "array":
                array = zarr.open_array(path.parent, mode="r")
                yield name, np.ascontiguousarray(array[:]).tobytes()


def _needles(made: Made) -> list[bytes]:
    """The patient's voxels: of the slice file's image, of masks, of volumes; and files as such."""
    root = Path(str(made.folder.root))
    found: list[bytes] = []
    for case in ("pat7_a", "pat7_b"):
        prepared = read_prepared(made.place / "data" / f"{case}.zarr")
        assert prepared.image is not None
        middle = prepared.image[len(prepared.image) // 2]
        found += [middle.astype(kind).tobytes() for kind in ("<f4", "<f8", "<f2")]
        found.append(prepared.mask.tobytes())
        found.append(prepared.native_mask.tobytes())
    for name in GONE:
        files = (root / "volumes" / f"{name}.ome.zarr" / "0" / "c").rglob("*")
        found += [file.read_bytes() for file in files if file.is_file()]
    for file in (*made.dataset.rglob("*.nii.gz"), *(root / "for_partner").rglob("*.nii.gz")):
        sample_id = file.name.removesuffix(".nii.gz").removesuffix("_0000")
        if sample_id in GONE and (file.parent.name[:6] == "images" or "pat7_" in sample_id):
            found.append(gzip.decompress(file.read_bytes())[352:])
    image = read_prepared(root / "informed" / "ref.zarr").image
    assert image is not None
    return [*found, image[len(image) // 2].tobytes()]


def _found(made: Made, needles: list[bytes]) -> set[str]:
    everything = [*_decoded(made.place / "run"), *_decoded(made.dataset)]
    return {name for name, data in everything if any(needle in data for needle in needles)}


def _named(made: Made) -> set[str]:
    """Files in which, or in whose path, a name of the patient's cases or slice file stands."""
    words = ("pat7_a", "pat7_b", "ref", "pat7.", "-fixed-")
    return {
        name
        for root in (made.place / "run", made.dataset)
        for name, data in _decoded(root)
        if any(word in name or word.encode() in data for word in words[:2])
        or any(word in name for word in words[2:])
    }


def test_no_byte_of_a_withdrawn_patient_is_left(made: Made) -> None:
    needles = _needles(made)
    before = _found(made, needles)
    for part in ("volumes/", "informed/", "masks/", "staging/", "cohort/", "for_partner/"):
        assert any(name.startswith(f"run/{part}") for name in before), part
    for part in ("imagesTr", "labelsTr"):
        assert any(name.startswith(f"Dataset901_Made/{part}/") for name in before)
    gone = withdraw_patient(made.folder, "pat7")
    assert gone.patient.names == ("pat7_a", "pat7_b", "ref")
    assert set(gone.samples) == GONE
    assert _found(made, needles) == set()
    assert _named(made) == KEEPS_NAMES
    assert all(name.removeprefix("run/") in gone.kept for name in KEEPS_NAMES)
    assert ledger.committed_ids(made.folder) == LEFT
    assert (made.place / "run" / "cohort" / "prepared" / "pat70_a.zarr").is_dir()
    assert "pat9_a" in made.folder.progress.read_text(), "others' events stay"


def test_exports_hold_what_the_run_holds(made: Made) -> None:
    withdraw_patient(made.folder, "pat7")
    description = json.loads((made.dataset / "dataset.json").read_text())
    assert (
        description["numTraining"] == len(list((made.dataset / "imagesTr").iterdir())) == len(LEFT)
    )
    assert set(read_records(made.dataset).files) == LEFT
    assert len(
        export_run(ExportJob(run=made.place / "run", layout="nnunet", out=made.dataset))
    ) == len(LEFT)
    assert json.loads((made.dataset / "dataset.json").read_text()) == description
    assert withdraw_patient(made.folder, "pat7").samples, "the same call again is harmless"


def test_what_lies_outside_the_run_is_named(made: Made) -> None:
    made.dataset.rename(made.place / "elsewhere")
    (made.place / "run" / "notes on pat7_a.txt").write_text("x")
    message = "\n".join(withdraw_patient(made.folder, "pat7").outside)
    for part in (
        "Dataset901_Made: an export of this run, which is not there",
        "prepared cases in data: pat7_a.zarr, pat7_b.zarr",
        "slice files: ref.nii.gz",
        "weights demo",
        "latents/",
        "notes on pat7_a.txt: not made by a job",
    ):
        assert part in message
    assert "pat70_a" not in message


def test_an_export_at_work_makes_a_withdrawal_fail_by_name(made: Made) -> None:
    refused = pytest.raises(StoreError, match=r"not complete.*Dataset901_Made: another export wri")
    with open_records(made.dataset, hash_file(made.folder.plan)), refused:
        withdraw_patient(made.folder, "pat7")
    assert read_withdrawn(made.folder) == {"pat7_a", "pat7_b", "ref"}
    withdraw_patient(made.folder, "pat7")
    assert len(list((made.dataset / "imagesTr").iterdir())) == len(LEFT)


def test_bytes_that_cannot_be_deleted_are_no_success(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unlink = os.unlink
    needles = _needles(made)

    def held(path: Any, *args: Any, **more: Any) -> None:
        if os.fspath(path).endswith("0"):  # a shard; metadata can be deleted
            raise PermissionError(1, "Operation not permitted", path)
        unlink(path, *args, **more)

    command = ["--run", str(made.folder.root), "--withdraw", "pat7"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", held)
        assert job.main(command) == 2
        message = capsys.readouterr().err
        assert "the withdrawal is not complete" in message
        assert ".deleted/0/c/0/0/0 (Operation not permitted)" in message
    left = {f.detail for f in verify_run(VerifyJob(run=made.folder.root)).findings}
    assert any("pat7_a-own-r00" in detail and ".deleted" in detail for detail in left)
    assert job.main(command) == 0
    assert "9 volumes of pat7 (pat7_a, pat7_b, ref) withdrawn" in capsys.readouterr().out
    assert _found(made, needles) == set()
    assert verify_run(VerifyJob(run=made.folder.root)).is_sound


def test_repair_finishes_a_withdrawal_that_was_cut_off(made: Made) -> None:
    needles = _needles(made)
    remember(made.folder, "pat7_a", "pat7_b", "ref")
    assert not verify_run(VerifyJob(run=made.folder.root)).is_sound
    assert verify_run(VerifyJob(run=made.folder.root, repair=True)).is_sound
    assert _found(made, needles) == set()


def _late(made: Made) -> tuple[Any, Path, Any]:
    """A volume that a worker has staged, and how it makes the record."""
    name = "pat7_b-own-r00"
    record = ledger.read_commit(made.folder, name)
    assert record is not None
    volume = Path(str(made.folder.volume(name)))
    shutil.copytree(volume, made.place / "copy")
    ledger.delete(made.folder, name)
    attempt = ledger.begin_attempt(made.folder, name, "w", "pat7_b")
    staged = Path(str(ledger.staging_place(made.folder, attempt)))
    shutil.copytree(made.place / "copy", staged)
    assert not volume.exists()
    return attempt, staged, lambda files: record.model_copy(update={"files": files})


def test_a_worker_that_commits_after_a_withdrawal_brings_nothing_back(made: Made) -> None:
    attempt, staged, record = _late(made)
    withdraw_patient(made.folder, "pat7")
    shutil.copytree(made.place / "copy", staged)  # it goes on writing
    with pytest.raises(WithdrawnError, match="pat7_b was withdrawn"):
        ledger.commit(made.folder, attempt, staged, hash_tree, record)
    assert not staged.exists()
    assert _named(made) == KEEPS_NAMES
    row = next(row for row in iter_plan(made.folder.plan) if row.sample_id == "pat7_b-own-r00")
    worker = ResampleWorker(worker_task(made.folder, made.place / "data"), LoadFake())
    status = worker({"plan": row.model_dump_json()})
    assert (status["status"], "was withdrawn" in status["message"]) == ("failed", True)
    assert _named(made) == KEEPS_NAMES


def test_a_withdrawal_while_a_worker_commits_is_seen_by_it(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, staged, record = _late(made)
    settle = RenamedVolumes.settle

    def slow(*args: Any) -> Any:
        remember(made.folder, "pat7_b")  # and its volumes are looked for before this one is there
        return settle(*args)

    monkeypatch.setattr(RenamedVolumes, "settle", slow)
    with pytest.raises(WithdrawnError):
        ledger.commit(made.folder, attempt, staged, hash_tree, record)
    assert ledger.existing(made.folder, "pat7_b-own-r00") is None
    assert not made.folder.volume("pat7_b-own-r00").exists()


def test_a_job_goes_on_without_the_withdrawn_slice_file(made: Made) -> None:
    withdraw_patient(made.folder, "pat7")
    file = made.place / "ref.nii.gz"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    for _ in range(2):  # the second time without the file
        slices, digests = find_slices([str(file)], {}, made.folder, PREPARE)
        assert (slices[0].name, digests) == ("ref", {"ref.nii.gz": sha256})
        assert not list((made.place / "run" / "informed").iterdir())
        file.unlink(missing_ok=True)
    assert read_state(made.folder).pending == []


@pytest.mark.parametrize(
    ("asked", "names", "others"),
    [
        ("pat7", {"pat7_a", "pat7_b", "ref"}, ()),
        ("pat7_b", {"pat7_b"}, ("pat7_a",)),
        ("ref", {"pat7_a", "ref"}, ()),
        ("pat70", {"pat70_a"}, ()),
        ("pat9_a", {"pat9_a"}, ()),
    ],
)
def test_a_patient_or_one_case(
    made: Made, asked: str, names: set[str], others: tuple[str, ...]
) -> None:
    identity = RunIdentity.model_validate(
        {**IDENTITY.model_dump(), "settings": {"patient_pattern": "^(pat[0-9]+)"}}
    )
    found = find_patient(made.folder, identity, asked)
    assert (set(found.names), found.others) == (names, others)
    with pytest.raises(RunError, match=r"pat: no volume .* pat70_a, pat7_a"):
        derived_from(made.folder, "pat")


def test_sites_and_equal_slice_files_are_one_patients(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    identity = RunIdentity.model_validate(
        {
            **IDENTITY.model_dump(),
            "job": "harmonize",
            "machine": {"sites": ["A=a", "B=b"]},
            "data": {"slice one.nii.gz": "5", "slice two.nii.gz": "5", "slice b.nii": "6"},
        }
    )
    settle_identity(folder, identity)
    names = ("A--case1", "B--case1", "B--case2", "one")
    facts = {name: CaseFacts(9, True) for name in names}
    rows = list(plan_rows(facts, names, PlanSettings(("own",))))
    settle_plan(folder, lambda: rows)
    assert find_patient(folder, identity, "case1").names == ("A--case1", "B--case1")
    assert find_patient(folder, identity, "B--case1").others == ("A--case1",)
    assert find_patient(folder, identity, "two").names == ("one", "two")
