"""Exported volumes lie on the mask's own grid and are what was committed."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from engine.errors import ConfigError, RunError, StoreError
from engine.runs.audit.verify import withdraw
from engine.runs.export.export import ExportJob, export_run
from engine.runs.export.known_exports import export_folders
from engine.runs.export.records import open_records
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import hash_file
from engine.runs.record.records import Commit, Quality
from engine.volumes.layouts import find_cases
from engine.volumes.nifti import read_image, read_labels, write_nifti
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.prepared.store import read_prepared, write_prepared
from engine.volumes.store import hash_tree
from engine.volumes.volume import NativeGrid, Volume
from tests.runs.fakes import PREPARE, LoadFake, make_case, make_data, make_weights


def test_export_goes_back_to_the_masks_grid_and_refuses_other_bytes(
    own_run: Path,
) -> None:
    paths = export_run(ExportJob(run=own_run))
    assert [path.name for path in paths] == [f"case{i}-r00.nii.gz" for i in range(3)]
    source, labels = make_case(1)
    image = read_image(paths[1])
    assert image.size_zyx == source.size_zyx
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    mask = read_labels(own_run / "export" / "labels" / paths[1].name)
    organs = np.where(mask.array == 3, 0, mask.array)  # 3 is the body contour
    np.testing.assert_array_equal(organs, labels.array)

    before = paths[0].stat().st_mtime_ns
    export_run(ExportJob(run=own_run))
    assert paths[0].stat().st_mtime_ns == before, "what is there is kept"

    shard = next((own_run / "volumes" / "case2-r00.ome.zarr" / "0").glob("c/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    paths[2].unlink()
    with pytest.raises(StoreError, match="differs from its commit record"):
        export_run(ExportJob(run=own_run))


def test_nnunet_can_train_on_an_export(own_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset901_Made"
    paths = export_run(ExportJob(run=own_run, layout="nnunet", out=out))
    assert len(paths) == 3
    raw = json.loads((out / "dataset.json").read_text())
    assert raw["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    assert (raw["channel_names"], raw["numTraining"]) == ({"0": "CT"}, 3)
    assert "clipped to -200 to 300 HU: air" in raw["description"]
    cases = find_cases(out)  # our own reader of the layout takes it
    assert [case.case_id for case in cases] == [f"case{i}-r00" for i in range(3)]
    _, labels = make_case(1)
    np.testing.assert_array_equal(read_labels(cases[1].mask).array, labels.array)


def test_a_volume_that_was_made_again_is_exported_again(own_run: Path) -> None:
    (path, *_) = export_run(ExportJob(run=own_run))
    records = path.parents[1] / "exported.jsonl"
    records.write_text(records.read_text().replace('"sha256": "', '"sha256": "0', 1) + "torn")
    before = path.stat().st_mtime_ns
    export_run(ExportJob(run=own_run))
    assert path.stat().st_mtime_ns > before


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--run"):
        export_run(ExportJob())
    with pytest.raises(RunError, match="not a run folder"):
        export_run(ExportJob(run=tmp_path))
    (tmp_path / "plan.jsonl").write_text("")
    with pytest.raises(RunError, match="committed yet"):
        export_run(ExportJob(run=tmp_path))


def test_a_class_named_body_is_exported_under_its_own_number(tmp_path: Path, no_ray: None) -> None:
    """The contour is what the settings added, never what is called so, wherever it stands."""
    settings = {**PREPARE.model_dump(), "class_names": ("body", "spleen"), "contour": "none"}
    prepare = PrepareConfig.model_validate(settings)
    run = ResampleConfig(
        data=make_data(tmp_path / "data", prepare=prepare),
        weights=make_weights(tmp_path / "weights", prepare),
        out=tmp_path / "run",
        informed=("own",),
    )
    resample(run, LoadFake())
    out = tmp_path / "Dataset902_Named"
    export_run(ExportJob(run=run.out, layout="nnunet", out=out))
    named = json.loads((out / "dataset.json").read_text())["labels"]
    assert named == {"background": 0, "body": 1, "spleen": 2}
    for number, case in enumerate(find_cases(out)):
        _, labels = make_case(number)
        np.testing.assert_array_equal(read_labels(case.mask).array, labels.array)


def test_a_run_from_before_the_attribute_is_exported_as_it_was(own_run: Path) -> None:
    for path in (own_run / "volumes").glob("*.zarr/zarr.json"):
        raw = json.loads(path.read_text())
        assert raw["attributes"].pop("contour") == "body"
        path.write_text(json.dumps(raw))
        place = RunFolder(own_run).commit(path.parent.name.removesuffix(".ome.zarr"))
        record = Commit.model_validate_json(place.read_text())
        record = record.model_copy(update={"files": hash_tree(path.parent)}).sealed()
        place.write_text(record.model_dump_json())
    export_run(ExportJob(run=own_run, layout="nnunet"))
    out = own_run / "export_nnunet"
    named = json.loads((out / "dataset.json").read_text())["labels"]
    assert named == {"background": 0, "liver": 1, "spleen": 2}
    _, labels = make_case(2)
    exported = read_labels(out / "labelsTr" / "case2-r00.nii.gz")
    np.testing.assert_array_equal(exported.array, labels.array)


def test_a_sheared_grid_is_exported_with_a_warning(
    config: ResampleConfig, no_ray: None, caplog: pytest.LogCaptureFixture
) -> None:
    """nnU-Net's reader refuses a whole set for one sheared sform that stands alone."""
    assert config.data is not None
    path = config.data / "case1.zarr"
    case = read_prepared(path)
    affine = case.native.affine.copy()
    affine[1, 2] = 0.2 * affine[2, 2]
    header = nib.Nifti1Header()
    header.set_data_shape(case.native.size_zyx[::-1])
    header.set_sform(affine, code=1)
    native = NativeGrid(affine, case.native.size_zyx, bytes(header.structarr.tobytes()))
    prepared = case.affine @ np.linalg.inv(case.native.affine) @ affine
    write_prepared(path, replace(case, native=native, affine=prepared))
    resample(config, LoadFake())
    paths = export_run(ExportJob(run=config.out, layout="nnunet"))
    written = nib.load(paths[1])
    assert np.allclose(written.affine, affine, atol=1e-5)
    assert written.header["qform_code"] == 1
    lines = [record.message for record in caplog.records if "sheared grid" in record.message]
    assert [line.split(":")[0] for line in lines] == ["case1-r00"]


def cases_of(out: Path) -> tuple[list[str], list[str], int]:
    """What nnU-Net compares: images, masks, and the number that dataset.json gives."""
    images = sorted(p.name for p in (out / "imagesTr").glob("*.nii.gz"))
    masks = sorted(p.name for p in (out / "labelsTr").glob("*.nii.gz"))
    return images, masks, json.loads((out / "dataset.json").read_text())["numTraining"]


def test_an_export_after_a_withdrawal_holds_what_the_run_holds(
    own_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "Dataset901_Made"
    job = ExportJob(run=own_run, layout="nnunet", out=out)
    export_run(job)
    (out / "imagesTr" / "theirs_0000.nii.gz").write_bytes(b"x")
    part = out / "labelsTr" / ".case1-r00.nii.gz.4242.part"
    part.write_bytes(b"x")
    withdraw(RunFolder(own_run), "case0")
    assert len(export_run(job)) == 2
    images, masks, count = cases_of(out)
    assert images == ["case1-r00_0000.nii.gz", "case2-r00_0000.nii.gz", "theirs_0000.nii.gz"]
    assert masks == ["case1-r00.nii.gz", "case2-r00.nii.gz"]
    assert count == 2
    assert not part.exists()
    assert "case0" not in (out / "exported.jsonl").read_text()
    for case in ("case1", "case2"):
        withdraw(RunFolder(own_run), case)
    with pytest.raises(RunError, match="committed yet"):
        export_run(job)
    assert not (out / "dataset.json").exists()
    assert [p.name for p in out.glob("*/*")] == ["theirs_0000.nii.gz"]


def test_an_export_without_flagged_volumes_drops_those_it_held(
    own_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "Dataset901_Made"
    job = ExportJob(run=own_run, layout="nnunet", out=out)
    export_run(job)
    path = RunFolder(own_run).commit("case1-r00")
    record = Commit.model_validate_json(path.read_text())
    record = record.model_copy(update={"quality": Quality(flags=("dark",))}).sealed()
    path.write_text(record.model_dump_json(indent=1))
    export_run(job.model_copy(update={"skip_flagged": True}))
    images, masks, count = cases_of(out)
    assert (len(images), len(masks), count) == (2, 2, 2)
    assert "case1-r00_0000.nii.gz" not in images
    export_run(job)
    assert [len(n) for n in cases_of(out)[:2]] == [3, 3], "flagged volumes come back when wanted"


def test_an_export_in_another_layout_takes_the_place_of_the_first(
    own_run: Path,
) -> None:
    out = own_run / "exported"
    export_run(ExportJob(run=own_run, out=out, layout="nnunet"))
    records = out / "exported.jsonl"  # as an early version wrote it: without the files' names
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    old = [{k: v for k, v in line.items() if k != "files"} for line in lines if len(line) != 2]
    records.write_text("".join(json.dumps(line) + "\n" for line in old))
    export_run(ExportJob(run=own_run, out=out, layout="nifti"))
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    names = [f"case{n}-r00.nii.gz" for n in range(3)]
    own = {f"{folder}/{name}" for folder in ("images", "labels") for name in names}
    assert found == own | {"exported.jsonl"}


def test_an_export_that_was_cut_off_has_no_description_and_goes_on(
    own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "Dataset901_Made"
    job = ExportJob(run=own_run, layout="nnunet", out=out)
    written: list[Path] = []

    def cut_off(path: Path, volume: Volume) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write_nifti(path, volume)

    monkeypatch.setattr("engine.runs.export.export.write_nifti", cut_off)
    with pytest.raises(KeyboardInterrupt):
        export_run(job)
    assert not (out / "dataset.json").exists()
    monkeypatch.undo()
    withdraw(RunFolder(own_run), "case1")  # whose mask is there without its image
    export_run(job)
    images, masks, count = cases_of(out)
    assert (len(images), len(masks), count) == (2, 2, 2)


def test_hostile_records_remove_nothing_outside(own_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = ExportJob(run=own_run, out=out)
    export_run(job)
    kept = tmp_path / "kept.nii.gz"
    kept.write_bytes(b"mine")
    files = ["../kept.nii.gz", str(kept), "images/../../kept.nii.gz", 3]
    with (out / "exported.jsonl").open("a") as records:
        records.write(json.dumps({"sample_id": "x", "sha256": "0", "files": files}) + "\n")
        records.write('{"sample_id": 3, "sha256": []}\nnull\n[]\n')
    export_run(job)
    assert kept.read_bytes() == b"mine"


def test_an_export_begins_beside_what_systems_leave_and_one_at_a_time(
    own_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".DS_Store").write_bytes(b"x")
    assert len(export_run(ExportJob(run=own_run, out=out))) == 3
    with (
        open_records(out, hash_file(own_run / "plan.jsonl")),
        pytest.raises(RunError, match="another export writes here"),
    ):
        export_run(ExportJob(run=own_run, out=out))


def test_a_refused_export_is_not_listed(own_run: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to whom.txt").write_text("x")
    with pytest.raises(RunError, match="holds files that no export wrote"):
        export_run(ExportJob(run=own_run, out=tmp_path / "letters"))
    assert not RunFolder(own_run).exports.exists()
    export_run(ExportJob(run=own_run, out=tmp_path / "made"))
    assert export_folders(RunFolder(own_run)) == [tmp_path / "made"]


@pytest.mark.parametrize("written", [1, 2, 3])
def test_a_withdrawal_beside_an_export_on_a_disk_without_locks(
    own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Whichever volume is being written then: nothing of the patient is in the export."""
    out, calls = tmp_path / "made", []

    def withdrawn_meanwhile(path: Path, volume: Volume) -> None:
        calls.append(path)
        write_nifti(path, volume)
        if len(calls) == 2 * written:
            with monkeypatch.context() as patch:
                patch.setattr("engine.runs.export.export.write_nifti", write_nifti)
                withdraw(RunFolder(own_run), "case1")

    job = ExportJob(run=own_run, out=out, layout="nnunet")
    monkeypatch.setattr("engine.runs.export.records.fcntl.flock", _no_locks)
    monkeypatch.setattr("engine.runs.export.export.write_nifti", withdrawn_meanwhile)
    with pytest.raises(RunError, match="withdrawn from the run meanwhile; export again"):
        export_run(job)
    assert not [path for path in out.rglob("*") if "case1" in path.name]
    assert not (out / "dataset.json").exists()
    assert len(export_run(job)) == 2
    assert json.loads((out / "dataset.json").read_text())["numTraining"] == 2


def _no_locks(*_: object) -> None:
    raise OSError(37, "No locks available")


def test_an_export_onto_a_full_disk_says_so_and_goes_on_when_there_is_room(
    own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "full"
    (out / "images").mkdir(parents=True)
    killed = out / "images" / f".case0-r00.nii.gz.{2**22 + 1}.part"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    out.joinpath("images").rmdir()
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="free disk space"):
        patch.setattr("engine.volumes.nifti.write.os.fsync", full)
        export_run(ExportJob(run=own_run, out=out))
    assert not list(out.rglob("*.part"))
    killed.parent.mkdir(exist_ok=True)
    killed.write_bytes(b"torn")
    assert export_run(ExportJob(run=own_run, out=out))
    assert not killed.exists()
