"""A finished run of which a patient can be withdrawn: everything that a run can keep of one."""

import shutil
from dataclasses import replace
from pathlib import Path

from engine.runs.export.export import ExportJob, export_run
from engine.runs.making.worker import ResampleWorker, WorkerTask
from engine.runs.planning.informed_slices import find_slices
from engine.runs.planning.rows import CaseFacts, PlanSettings, plan_rows
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import hash_file, read_identity
from engine.runs.record.own_files import settle_identity, settle_plan
from engine.runs.record.plan import PlanRow
from engine.runs.record.status import read_state
from engine.sampling.config import SamplingConfig
from engine.volumes.nifti import write_nifti
from engine.volumes.prepared.prepare import prepare_case
from engine.volumes.prepared.store import read_prepared, write_prepared
from engine.volumes.volume import Volume
from tests.runs.fakes import IDENTITY, PREPARE, FakeSampler, LoadFake, make_case

CASES = ("pat7_a", "pat7_b", "pat70_a", "pat9_a")
"""Of three patients; one's name is the beginning of another's."""


def make_run_to_withdraw_from(place: Path) -> Path:
    """A finished run of three patients, half-written leftovers, and two exports of it."""
    data, folder = place / "data", RunFolder(place / "run")
    facts = {}
    for number, name in enumerate(CASES):
        image, labels = make_case(number)
        write_prepared(data / f"{name}.zarr", prepare_case(image, labels, PREPARE, name))
        facts[name] = CaseFacts(12 + 2 * number, True)
    write_nifti(place / "ref.nii.gz", make_case(0)[0])
    sha256 = hash_file(place / "ref.nii.gz")
    facts["pat7_a"] = replace(facts["pat7_a"], sources=frozenset({sha256}))
    folder.create()
    slices, digests = find_slices([str(place / "ref.nii.gz")], facts, folder, PREPARE)
    assert digests == {"ref.nii.gz": sha256}
    identity = IDENTITY.model_copy(
        update={
            "settings": {"patient_pattern": "^(pat[0-9]+)"},
            "data": {"slice ref.nii.gz": sha256},
            "machine": {"data": "data", "weights": "demo"},
        }
    )
    settle_identity(folder, identity)
    drawn = read_prepared(data / "pat7_a.zarr")
    (place / "run" / "masks").mkdir()
    mask = Volume(drawn.native_mask, drawn.native.affine, "drawn", drawn.native.header)
    write_nifti(place / "run" / "masks" / "pat7_a.nii.gz", mask)
    settings = PlanSettings(("own", "cross", "fixed"), fixed=slices)
    rows = [_with_drawn(row) for row in plan_rows(facts, list(facts), settings)]
    settle_plan(folder, lambda: rows)
    make(folder, data, FakeSampler(fail=frozenset({"pat7_b-own-r00"})))
    make(folder, data)
    _leave_more(folder, data)
    export_run(ExportJob(run=folder.root, layout="nnunet", out=place / "Dataset901_Made"))
    export_run(ExportJob(run=folder.root, out=place / "run" / "for_partner"))
    for whole in (
        place / "run" / "for_partner" / "images" / "pat7_a-own-r00.nii.gz",
        place / "Dataset901_Made" / "imagesTr" / "pat7_b-cross-r00_0000.nii.gz",
        place / "Dataset901_Made" / "labelsTr" / "pat7_b-own-r00.nii.gz",
    ):
        (whole.parent / f".{whole.name}.4711.part").write_bytes(whole.read_bytes()[:-100])
    return place


def _with_drawn(row: PlanRow) -> PlanRow:
    if row.sample_id != "pat7_a-own-r00":
        return row
    return row.model_copy(update={"drawn_mask": "masks/pat7_a.nii.gz"})


def worker_task(folder: RunFolder, data: Path) -> WorkerTask:
    return WorkerTask(
        root=folder.root,
        data=data,
        weights=data,
        sampling=SamplingConfig(),
        settings_sha256=read_identity(folder.identity).settings_sha256,
        weights_sha256="w",
        code="c",
        num_threads=1,
    )


def make(folder: RunFolder, data: Path, sampler: FakeSampler | None = None) -> None:
    worker = ResampleWorker(worker_task(folder, data), LoadFake(sampler or FakeSampler()))
    for _, _, row in read_state(folder).pending:
        worker({"plan": row})


def _leave_more(folder: RunFolder, data: Path) -> None:
    """Pages over all volumes, the demo's cohort, and what killed processes leave."""
    root = Path(str(folder.root))
    for name in ("report.html", "summary.json", "volumes.jsonl", "cohort.json", ".report.html.tmp"):
        (root / name).write_text("pat7_a")
    (root / "harmonization.html").write_text("pat7_b")
    (root / "cohort" / "raw" / "imagesTr").mkdir(parents=True)
    write_nifti(root / "cohort" / "raw" / "imagesTr" / "pat7_a_0000.nii.gz", make_case(0)[0])
    shutil.copytree(data / "pat7_a.zarr", root / "cohort" / "prepared" / "pat7_a.zarr")
    shutil.copytree(data / "pat70_a.zarr", root / "cohort" / "prepared" / "pat70_a.zarr")
    shutil.copytree(root / "informed" / "ref.zarr", root / "informed" / ".ref.zarr.ab12cd34.part")
    volume = root / "volumes" / "pat7_a-own-r00.ome.zarr"
    shutil.copytree(volume, root / "staging" / "pat7_a-own-r00.1.abc.ome.zarr")
    (root / "commits" / ".pat7_a-own-r00.json.0a1b2c3d.tmp").write_text("pat7_a")
