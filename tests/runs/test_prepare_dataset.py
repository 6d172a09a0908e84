"""A data set as a job: all cases, whatever befalls some of them, and no work twice."""

import gzip
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import engine.preparing.dataset as prepare_module
from engine.errors import ConfigError, EngineError, LayoutError, RunError, StoreError
from engine.parallel.rows.pipeline import Pool, Row
from engine.parallel.start.session import RaySession
from engine.preparing.dataset import prepare_dataset, run_job
from engine.preparing.records import tree_digest
from engine.preparing.settings import DataSource, PrepareJob
from engine.preparing.worker import PrepareWorker
from engine.volumes.nifti import read_image, write_nifti
from engine.volumes.prepared.manifest import read_manifest
from engine.volumes.prepared.prepare import ABDOMEN_CT, PrepareConfig
from engine.volumes.prepared.store import list_prepared, read_prepared
from engine.volumes.volume import Volume

CONFIG = PrepareConfig(size_yx=(16, 16), spacing_mm_yx=3.0)
ROOT = Path(__file__).parents[2]


def dataset(root: Path, *case_ids: str) -> Path:
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, case_id in enumerate(case_ids):
        rng = np.random.default_rng(seed)
        image = rng.normal(50, 80, (6, 14, 14)).astype(np.float32)
        labels = np.zeros(image.shape, np.uint8)
        labels[1:5, 3:11, 4:9] = 1
        affine = np.diag([3.0, 3.0, 5.0, 1.0])
        write_nifti(root / f"imagesTr/{case_id}_0000.nii.gz", Volume(image, affine, "i"))
        write_nifti(root / f"labelsTr/{case_id}.nii.gz", Volume(labels, affine, "m"))
    return root


def rows_of(root: Path, *case_ids: str) -> list[dict[str, str]]:
    return [
        {
            "case_id": case_id,
            "dataset": root.name,
            "split": "train",
            "stamp": "[]",
            "image": str(root / f"imagesTr/{case_id}_0000.nii.gz"),
            "mask": str(root / f"labelsTr/{case_id}.nii.gz"),
            "brain_mask": "",
        }
        for case_id in case_ids
    ]


def test_worker_returns_every_failure_as_a_row(tmp_path: Path) -> None:
    root = dataset(tmp_path / "D", "good", "cut")
    broken = root / "imagesTr/cut_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    worker = PrepareWorker(str(tmp_path / "out"), CONFIG.model_dump_json())
    good, cut, odd = [
        worker(row)
        for row in [
            *rows_of(root, "good", "cut"),
            {"case_id": "odd"}
            | {"mask": str(root), "image": "", "brain_mask": "", "dataset": "D", "split": "train"},
        ]
    ]
    assert good["error"] == ""
    assert json.loads(good["entry"])["size_zyx"] == [4, 16, 16]
    assert "cut_0000.nii.gz: damaged or truncated" in cut["error"]
    assert "no structure that TotalSegmentator names" in odd["error"]
    assert list_prepared(tmp_path / "out") == ["good"]


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows through the same worker, without Ray."""

    def run_inline(
        rows: Sequence[Row], worker: Callable[..., Callable[[Row], Any]], settings: Row, _pool: Pool
    ) -> Iterator[Row]:
        instance = worker(**settings)
        yield from (instance(dict(row)) for row in rows)

    monkeypatch.setattr(prepare_module, "run_rows", run_inline)
    monkeypatch.setattr(prepare_module, "node_resources", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr(RaySession, "start", lambda _self: None)


@pytest.mark.ray
def test_rest_is_finished_when_a_case_is_refused(tmp_path: Path, local_ray: None) -> None:
    root = dataset(tmp_path / "D", "a", "b", "c")
    (root / "labelsTr/b.nii.gz").write_bytes(gzip.compress(b"no labels"))
    summary = prepare_dataset(root, tmp_path / "out", CONFIG)
    assert (summary.planned, summary.prepared, summary.kept) == (3, 2, 0)
    assert list(summary.failed) == ["b"]
    assert "labelsTr/b.nii.gz: no NIfTI header" in summary.failed["b"]
    manifest = read_manifest(tmp_path / "out")
    assert list(manifest.cases) == ["a", "c"]
    assert manifest.failed == summary.failed
    assert manifest.cases["a"].dataset == "D"
    assert manifest.cases["a"].sha256 == tree_digest(tmp_path / "out" / "a.zarr")
    assert set(manifest.cases["a"].sources) == {"image/a_0000.nii.gz", "mask/a.nii.gz"}
    assert read_prepared(tmp_path / "out" / "a.zarr").case_id == "a"


def test_only_what_changed_is_made_anew(tmp_path: Path, inline: None) -> None:
    root, out = dataset(tmp_path / "D", "a", "b", "c", "d"), tmp_path / "out"
    mended = root / "labelsTr/b.nii.gz"
    sound = mended.read_bytes()
    mended.write_bytes(b"")
    assert prepare_dataset(root, out, CONFIG).prepared == 3
    mended.write_bytes(sound)
    next((out / "c.zarr").rglob("c/0/0/0")).write_bytes(b"")  # damaged
    os.utime(root / "labelsTr/d.nii.gz", (1, 1))  # touched
    kept = (out / "a.zarr" / "zarr.json").stat().st_mtime_ns
    second = prepare_dataset(root, out, CONFIG, num_workers=1)
    assert (second.prepared, second.kept, second.failed) == (3, 1, {})
    assert (out / "a.zarr" / "zarr.json").stat().st_mtime_ns == kept
    assert read_prepared(out / "c.zarr").case_id == "c"
    third = prepare_dataset(root, out, CONFIG)
    assert (third.prepared, third.kept) == (0, 4)


def test_a_file_of_the_same_size_and_time_with_other_bytes_is_made_anew(
    tmp_path: Path, inline: None
) -> None:
    root, out = dataset(tmp_path / "D", "a", "b"), tmp_path / "out"
    for folder in ("imagesTr", "labelsTr"):
        for path in (root / folder).glob("*.nii.gz"):  # plain files, to change one voxel in place
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    assert prepare_dataset(root, out, CONFIG).prepared == 2
    before = read_manifest(out).cases["b"]
    mask = root / "labelsTr/b.nii"
    times, data = mask.stat(), bytearray(mask.read_bytes())
    data[-1 - data[::-1].index(1)] = 0  # the last voxel of the organ
    mask.write_bytes(data)
    os.utime(mask, ns=(times.st_atime_ns, times.st_mtime_ns))
    summary = prepare_dataset(root, out, CONFIG)
    assert (summary.prepared, summary.kept) == (1, 1)
    after = read_manifest(out).cases["b"]
    assert (after.sources == before.sources, after.sha256 == before.sha256) == (False, False)
    assert prepare_dataset(root, out, CONFIG).kept == 2


def test_lesions_that_the_grid_loses_are_named_case_by_case(tmp_path: Path, inline: None) -> None:
    """Case `both` keeps its liver, `only` has nothing but a lesion of 2 x 2 x 1 voxels of 1 mm."""
    root, affine = tmp_path / "D", np.diag([1.0, 1.0, 3.0, 1.0])
    for name, number in (("both", 5), ("only", 0)):
        labels = np.zeros((6, 40, 40), np.uint8)
        labels[1:5, 6:30, 6:30] = number
        labels[3, 32:34, 32:34] = 7
        for folder, tail in (("imagesTr", "_0000"), ("labelsTr", "")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            volume = labels if folder == "labelsTr" else labels.astype(np.float32) * 20 - 100
            write_nifti(root / folder / f"{name}{tail}.nii.gz", Volume(volume, affine, "m"))
    config = PrepareConfig(
        size_yx=(16, 16),
        spacing_mm_yx=3.0,
        label_map={5: 1, 7: 2},
        class_names=("liver", "pancreas"),
    )
    summary = prepare_dataset(root, tmp_path / "out", config)
    assert list(summary.failed) == ["only"]
    assert "only.nii.gz: pancreas (4 voxels, 12 mm3) is lost" in summary.failed["only"]
    entry = read_manifest(tmp_path / "out").cases["both"]
    assert entry.grid_loss["pancreas"].is_gone
    assert entry.grid_loss["liver"].share > 0.9
    lost = "pancreas (4 voxels, 12 mm3) is lost on the model's grid"
    assert summary.loss[-1] == f"flagged both: {lost}"
    again = prepare_dataset(root, tmp_path / "out", config)
    assert (again.kept, again.loss) == (1, summary.loss), "said again for what is kept"
    strict = config.model_copy(update={"lost_classes": "refuse"})
    refused = prepare_dataset(root, tmp_path / "strict", strict).failed
    assert sorted(refused) == ["both", "only"]
    assert "set lost_classes: flag" in refused["both"]


def test_killed_call_is_continued(tmp_path: Path, inline: None) -> None:
    """Killed after two cases, in the middle of a record: the two are kept."""
    root, out = dataset(tmp_path / "D", "a", "b", "c"), tmp_path / "out"
    prepare_dataset(root, out, CONFIG)
    records = (out / "prepared.jsonl").read_text().splitlines(keepends=True)
    (out / "prepared.jsonl").write_text("".join(records[:2]) + records[2][:40] + "\n")
    (out / "dataset.json").unlink()
    (out / ".c.zarr.1234.part").mkdir()
    summary = prepare_dataset(root, out, CONFIG)
    assert (summary.prepared, summary.kept) == (1, 2)
    assert list(read_manifest(out).cases) == ["a", "b", "c"]
    assert not list(out.glob(".*"))


def test_case_refused_now_is_no_longer_there(tmp_path: Path, inline: None) -> None:
    root, out = dataset(tmp_path / "D", "a", "b"), tmp_path / "out"
    prepare_dataset(root, out, CONFIG)
    (root / "labelsTr/b.nii.gz").write_bytes(b"")
    assert list(prepare_dataset(root, out, CONFIG).failed) == ["b"]
    assert list_prepared(out) == list(read_manifest(out).cases) == ["a"]


def test_another_data_set_may_join_unless_its_ids_are_taken(tmp_path: Path, inline: None) -> None:
    out = tmp_path / "out"
    prepare_dataset(dataset(tmp_path / "D", "a"), out, CONFIG)
    prepare_dataset(dataset(tmp_path / "E", "e"), out, CONFIG)
    assert {i: c.dataset for i, c in read_manifest(out).cases.items()} == {"a": "D", "e": "E"}
    with pytest.raises(RunError, match=r"case ids \['a'\] are there already, from another"):
        prepare_dataset(dataset(tmp_path / "F", "a"), out, CONFIG)


def test_files_that_are_not_read_are_named(tmp_path: Path, inline: None) -> None:
    """Also when they were prepared before, from files that were read."""
    root, out = dataset(tmp_path / "D", "a", "b", "c"), tmp_path / "out"
    prepare_dataset(root, out, CONFIG)
    image = root / "imagesTr/b_0000.nii.gz"
    image.rename(image.with_name("b_0000.npz"))
    for path in (root / "imagesTr/c_0000.nii.gz", root / "labelsTr/c.nii.gz"):
        path.rename(path.with_name(path.name.upper().replace("C", "c", 1)))
    summary = prepare_dataset(root, out, CONFIG)
    assert set(summary.failed) == {"b", "imagesTr/b_0000.npz"}
    assert (summary.planned, summary.prepared) == (2, 1)  # c.NII.GZ is read
    assert list_prepared(out) == list(read_manifest(out).cases) == ["a", "c"]
    assert read_manifest(out).failed == summary.failed


def test_channel_of_decathlon_images_is_chosen_and_recorded(tmp_path: Path, inline: None) -> None:
    """Another channel is another image: the case is prepared anew."""
    root = dataset(tmp_path / "D", "a")
    path = root / "imagesTr/a_0000.nii.gz"
    first = read_image(path)
    both = np.stack([first.array, first.array + 100]).transpose(3, 2, 1, 0)
    nib.save(nib.Nifti1Image(both, first.affine), root / "imagesTr/a.nii.gz")
    path.unlink()
    row = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}
    raw = {"modality": {"0": "T2", "1": "ADC"}, "training": [row]}
    (root / "dataset.json").write_text(json.dumps(raw))
    out = tmp_path / "out"
    output = prepare_dataset(root, tmp_path / "none", CONFIG).failed["a"]
    assert "give --channel 0 to 1" in output
    means = []
    for channel in (0, 1):
        source = DataSource(root=root, channel=channel)
        assert prepare_dataset(source, out, CONFIG).prepared == 1
        assert prepare_dataset(source, out, CONFIG).kept == 1
        assert f"image/a.nii.gz#channel{channel}" in read_manifest(out).cases["a"].sources
        image = read_prepared(out / "a.zarr").image
        assert image is not None
        means.append(float(image[read_prepared(out / "a.zarr").mask == 1].mean()))
    assert means[1] - means[0] == pytest.approx(100 / 250, abs=0.15)


def test_mixed_endings_are_read_or_named(
    tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = dataset(tmp_path / "D", "a", "b", "c")
    for name, ending in (("b", ".mha"), ("c", ".NII.GZ")):
        for file in (root / f"imagesTr/{name}_0000", root / f"labelsTr/{name}"):
            file.with_name(f"{file.name}.nii.gz").rename(file.with_name(f"{file.name}{ending}"))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    summary = prepare_dataset(root, tmp_path / "out", CONFIG)
    assert (summary.planned, summary.prepared, list(summary.failed)) == (3, 2, ["b"])
    assert "pip install 'gem3d-engine[itk]'" in summary.failed["b"]


def test_two_folders_without_a_root(
    tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = dataset(tmp_path / "Site", "a")
    (root / "imagesTr").rename(root / "scans")
    (root / "labelsTr").rename(root / "drawn")
    folders = {"images": root / "scans", "masks": root / "drawn"}
    assert run_job(PrepareJob(**folders, out=tmp_path / "1")).prepared == 1
    assert read_manifest(tmp_path / "1").cases["a"].dataset == "Site"
    short = {"images": Path("scans"), "masks": Path("drawn")}
    assert run_job(PrepareJob(root=root, **short, out=tmp_path / "2")).prepared == 1
    monkeypatch.chdir(root)
    assert run_job(PrepareJob(**short, out=tmp_path / "3")).prepared == 1
    with pytest.raises(EngineError, match=rf"{tmp_path}/Site/none.*{tmp_path}/D/none.*--masks"):
        (tmp_path / "D").mkdir()
        run_job(PrepareJob(root=tmp_path / "D", masks=Path("none"), out=tmp_path / "4"))


def test_other_settings_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "prepare.json").write_text(CONFIG.model_dump_json())
    root = dataset(tmp_path / "D", "a")
    other = CONFIG.model_copy(update={"spacing_mm_yx": 2.0})
    with pytest.raises(RunError, match=r"other settings .spacing_mm_yx."):
        prepare_dataset(root, out, other)
    (out / "prepare.json").write_text("{")
    with pytest.raises(StoreError, match=r"prepare.json: damaged"):
        prepare_dataset(root, out, CONFIG)
    (out / "prepare.json").write_text('{"spacing": 3}')
    with pytest.raises(ConfigError, match=r"prepare.json: `spacing`"):
        prepare_dataset(root, out, CONFIG)


def test_job_needs_both_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both needed"):
        run_job(PrepareJob(root=tmp_path))
    with pytest.raises(LayoutError, match="no such folder"):
        run_job(PrepareJob(root=tmp_path / "none", out=tmp_path / "out"))
    with pytest.raises(StoreError, match="cannot be written"):
        (tmp_path / "file").write_text("")
        run_job(PrepareJob(root=dataset(tmp_path / "D", "a"), out=tmp_path / "file" / "out"))


def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("job", ROOT / "jobs" / "prepare_dataset.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_line_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ROOT / "jobs" / "configs" / "prepare_abdomen_ct.yaml"
    assert job().main(["--config", str(config)]) == 2
    assert "error: --root" in capsys.readouterr().err
    (tmp_path / "a.yaml").write_text("prepare:\n  spacing: 3\n")
    assert job().main(["--config", str(tmp_path / "a.yaml")]) == 2
    assert "a.yaml: `prepare.spacing`" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.real
def test_real_abdomen_from_the_command_line(
    tmp_path: Path, local_ray: None, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ROOT / "jobs" / "configs" / "prepare_abdomen_ct.yaml"
    folders = ["--root", str(real_data / "Dataset002_AbdomenCT"), "--out", str(tmp_path / "out")]
    assert job().main(["--config", str(config), *folders]) == 0
    assert "1 cases: 1 prepared, 0 kept, 0 refused" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "out")
    assert manifest.config == ABDOMEN_CT
    assert manifest.cases["ct0001"].size_zyx == (112, 128, 128)
