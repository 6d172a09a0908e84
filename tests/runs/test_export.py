"""Exported volumes lie on the mask's own grid and are what was committed."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from engine.errors import ConfigError, RunError, StoreError
from engine.runs.export import ExportJob, export_run
from engine.runs.resample import ResampleConfig, resample
from engine.volumes.layouts import find_cases
from engine.volumes.nifti import read_image, read_labels
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.prepared_store import read_prepared, write_prepared
from engine.volumes.store import hash_tree
from engine.volumes.volume import NativeGrid
from tests.runs.fakes import PREPARE, LoadFake, make_case, make_data, make_weights


@pytest.fixture
def finished(config: ResampleConfig, no_ray: None) -> ResampleConfig:
    resample(config, LoadFake())
    return config


def test_export_goes_back_to_the_masks_grid_and_refuses_other_bytes(
    finished: ResampleConfig,
) -> None:
    config = finished
    paths = export_run(ExportJob(run=config.out))
    assert [path.name for path in paths] == [f"case{i}-r00.nii.gz" for i in range(3)]
    source, labels = make_case(1)
    image = read_image(paths[1])
    assert image.size_zyx == source.size_zyx
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    mask = read_labels(config.out / "export" / "labels" / paths[1].name)
    organs = np.where(mask.array == 3, 0, mask.array)  # 3 is the body contour
    np.testing.assert_array_equal(organs, labels.array)

    before = paths[0].stat().st_mtime_ns
    export_run(ExportJob(run=config.out))
    assert paths[0].stat().st_mtime_ns == before, "what is there is kept"

    shard = next((config.out / "volumes" / "case2-r00.ome.zarr" / "0").glob("c/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    paths[2].unlink()
    with pytest.raises(StoreError, match="differs from its commit record"):
        export_run(ExportJob(run=config.out))


def test_nnunet_can_train_on_an_export(finished: ResampleConfig, tmp_path: Path) -> None:
    out = tmp_path / "Dataset901_Made"
    paths = export_run(ExportJob(run=finished.out, layout="nnunet", out=out))
    assert len(paths) == 3
    raw = json.loads((out / "dataset.json").read_text())
    assert raw["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    assert (raw["channel_names"], raw["numTraining"]) == ({"0": "CT"}, 3)
    cases = find_cases(out)  # our own reader of the layout takes it
    assert [case.case_id for case in cases] == [f"case{i}-r00" for i in range(3)]
    _, labels = make_case(1)
    np.testing.assert_array_equal(read_labels(cases[1].mask).array, labels.array)


def test_a_volume_that_was_made_again_is_exported_again(finished: ResampleConfig) -> None:
    (path, *_) = export_run(ExportJob(run=finished.out))
    records = path.parents[1] / "exported.jsonl"
    records.write_text(records.read_text().replace('"sha256": "', '"sha256": "0', 1) + "torn")
    before = path.stat().st_mtime_ns
    export_run(ExportJob(run=finished.out))
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


def test_a_run_from_before_the_attribute_is_exported_as_it_was(finished: ResampleConfig) -> None:
    for path in (finished.out / "volumes").glob("*.zarr/zarr.json"):
        raw = json.loads(path.read_text())
        assert raw["attributes"].pop("contour") == "body"
        path.write_text(json.dumps(raw))
        commit = finished.out / "commits" / f"{path.parent.name.removesuffix('.ome.zarr')}.json"
        record = json.loads(commit.read_text())
        record["files"] = hash_tree(path.parent)
        commit.write_text(json.dumps(record))
    export_run(ExportJob(run=finished.out, layout="nnunet"))
    out = finished.out / "export_nnunet"
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
    told = [record.message for record in caplog.records if "sheared grid" in record.message]
    assert [line.split(":")[0] for line in told] == ["case1-r00"]
