"""A volume holds the mask that the model saw, and an export can give it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from engine.errors import RunError, StoreError
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.export.export import ExportJob, export_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.making.ome import ome_faults
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import iter_plan
from engine.runs.report.summary import JobFacts, summarize
from engine.volumes.nifti import read_labels
from engine.volumes.prepared.class_loss import ClassLoss
from engine.volumes.prepared.prepare import mask_to_native
from engine.volumes.prepared.store import read_prepared
from engine.volumes.store import hash_tree, read_model_mask, read_ome_zarr
from tests.runs.fakes import PREPARE, LoadFake, make_data, make_run, make_weights

NAMES = [f"case{n}-r00" for n in range(2)]
COARSE = PREPARE.model_copy(update={"spacing_mm_yx": 7.0})


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared cases of a coarse grid, and a finished run of them."""
    place = tmp_path_factory.mktemp("coarse")
    data = make_data(place / "data", prepare=COARSE)
    names = ("case0", "case1")
    make_run(place, data, {n: len(read_prepared(data / f"{n}.zarr").mask) for n in names})
    return place


@pytest.fixture
def folder(coarse: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(coarse / "run", tmp_path / "run")))


def test_a_volume_holds_both_masks_and_says_which_the_model_saw(
    coarse: Path, folder: RunFolder
) -> None:
    case = read_prepared(coarse / "data" / "case0.zarr")
    path = Path(str(folder.volume(NAMES[0])))
    _, mask, attributes = read_ome_zarr(path)
    seen = read_model_mask(path)
    np.testing.assert_array_equal(mask.array, case.native_mask)
    np.testing.assert_array_equal(seen, mask_to_native(case, case.mask).array)
    assert not np.array_equal(seen, mask.array)
    assert attributes["mask_seen"]["label"] == "mask_model"
    assert len(attributes["mask_seen"]["prepared_sha256"]) == 64
    commit = ledger.read_commit(folder, NAMES[0])
    assert commit is not None
    spleen = commit.grid_loss["spleen"]
    kept = (mask.array == 2) & (seen == 2)
    assert (spleen.voxels, spleen.kept_voxels) == ((mask.array == 2).sum(), kept.sum())
    assert "body" not in commit.grid_loss


def test_verification_and_readers_take_both(folder: RunFolder) -> None:
    assert verify_run(VerifyJob(run=folder.root)).sound == 2
    path = Path(str(folder.volume(NAMES[0])))
    models = pytest.importorskip("ome_zarr_models.v05")
    models.ImageLabel.from_zarr(zarr.open_group(str(path / "labels" / "mask_model"), mode="r"))
    shutil.rmtree(path / "labels" / "mask_model")
    (fault,) = ome_faults(path)
    assert fault.startswith("labels/mask_model/zarr.json: cannot be read")
    (path / "labels" / "zarr.json").write_text(
        (path / "labels" / "zarr.json").read_text().replace('"mask_model"', '"mask_mode"')
    )
    assert any("said to be the mask that the model saw" in fault for fault in ome_faults(path))
    assert not verify_run(VerifyJob(run=folder.root)).is_sound


def test_an_export_gives_the_masks_that_were_asked_for(folder: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "Dataset901_Made"
    job = ExportJob(run=folder.root, layout="nnunet", out=out, masks="model", contour="keep")
    seen = read_model_mask(folder.volume(NAMES[0]))
    _, drawn, _ = read_ome_zarr(folder.volume(NAMES[0]))
    export_run(job)
    exported = out / "labelsTr" / f"{NAMES[0]}.nii.gz"
    np.testing.assert_array_equal(read_labels(exported).array, seen)
    assert (
        "masks as the model saw them"
        in json.loads((out / "dataset.json").read_text())["description"]
    )
    export_run(job.model_copy(update={"masks": "drawn"}))
    np.testing.assert_array_equal(read_labels(exported).array, drawn.array)


def test_volumes_of_early_versions_have_no_such_mask(folder: RunFolder) -> None:
    for name in NAMES:
        path = Path(str(folder.volume(name)))
        raw = json.loads((path / "zarr.json").read_text())
        del raw["attributes"]["mask_seen"]
        (path / "zarr.json").write_text(json.dumps(raw))
        commit = ledger.read_commit(folder, name)
        assert commit is not None
        record = commit.model_copy(update={"files": hash_tree(path), "grid_loss": {}})
        folder.commit(name).write_text(record.sealed().model_dump_json(indent=1))
    with pytest.raises(RunError, match=r"case0-r00 was made before .* --masks drawn"):
        export_run(ExportJob(run=folder.root, masks="model"))
    assert len(export_run(ExportJob(run=folder.root))) == 2
    with pytest.raises(StoreError, match="does not say which mask"):
        read_model_mask(folder.volume(NAMES[0]))


def test_the_summary_counts_what_the_model_did_not_see(folder: RunFolder) -> None:
    def pairs() -> list[Any]:
        return [(r, ledger.read_commit(folder, r.sample_id)) for r in iter_plan(folder.plan)]

    summary = summarize(pairs, JobFacts(wall_s=1.0, driver_memory_mb=1.0, quarantined=0))
    both = [commit.grid_loss["spleen"] for _, commit in pairs()]
    assert summary.grid_loss["spleen"].voxels == sum(one.voxels for one in both)
    assert summary.losing == sum(bool(volume.lost) for volume in summary.volumes)


def test_the_same_grid_needs_no_second_mask(own_run: Path) -> None:
    path = own_run / "volumes" / f"{NAMES[0]}.ome.zarr"
    _, mask, attributes = read_ome_zarr(path)
    assert attributes["mask_seen"]["label"] == "mask"
    assert not (path / "labels" / "mask_model").exists()
    np.testing.assert_array_equal(read_model_mask(path), mask.array)


def test_the_report_shows_what_was_lost(tmp_path: Path, no_ray: None) -> None:
    config = ResampleConfig(
        data=make_data(tmp_path / "data", num_cases=1, prepare=COARSE),
        weights=make_weights(tmp_path / "weights", COARSE),
        out=tmp_path / "run",
        informed=("own",),
    )
    resample(config, LoadFake())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What the model saw of the masks" in page
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    spleen = ClassLoss.model_validate(summary["grid_loss"]["spleen"])
    assert f"<td>{100 * spleen.share:.1f} %</td>" in page
