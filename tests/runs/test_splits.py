"""Test cases stay test cases: from the prepared data over the plan into the export."""

import json
from pathlib import Path

import pytest
import yaml

from engine.errors import ConfigError, RunError, SamplingError
from engine.runs.export.export import ExportJob, export_run
from engine.runs.jobs.edit_lesions import EditConfig, edit_lesions
from engine.runs.jobs.harmonize import HarmonizeConfig, find_medoid, read_sites
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import read_plan
from engine.volumes.layouts import Split, find_cases
from engine.volumes.prepared.manifest import read_manifest, write_manifest
from tests.runs.fakes import LoadFake, make_data, make_weights

pytestmark = pytest.mark.usefixtures("no_ray")

BOTH: tuple[Split, ...] = ("train", "test")


@pytest.fixture
def config(tmp_path: Path) -> ResampleConfig:
    """Two training cases and two test cases."""
    return ResampleConfig(
        data=make_data(tmp_path / "data", 4, test_cases=("case1", "case3")),
        weights=make_weights(tmp_path / "weights"),
        out=tmp_path / "run",
        num_pictured=0,
    )


def planned(config: ResampleConfig) -> list[tuple[str, str, str]]:
    assert resample(config, LoadFake()).summary.failed == 0
    assert isinstance(config.out, Path)
    rows = read_plan(RunFolder(config.out).plan)
    return [(row.case_id, row.informed_case, row.split) for row in rows]


def test_test_cases_are_neither_sampled_nor_lend_their_appearance(config: ResampleConfig) -> None:
    rows = planned(config.model_copy(update={"replicas": 8}))
    assert {(case, split) for case, _, split in rows} == {("case0", "train"), ("case2", "train")}
    assert {informed for _, informed, _ in rows} == {"case0", "case2"}
    assert json.loads((config.out / "cohort.json").read_text())["num_cases"] == 2


def test_named_test_masks_are_sampled_with_training_appearances(config: ResampleConfig) -> None:
    rows = planned(config.model_copy(update={"cases": ("case0", "case1"), "replicas": 8}))
    assert {(case, split) for case, _, split in rows} == {("case0", "train"), ("case1", "test")}
    assert {informed for _, informed, _ in rows} == {"case0", "case2"}


def test_splits_may_be_named(config: ResampleConfig) -> None:
    both = config.model_copy(update={"splits": BOTH, "informed_splits": ("test",), "replicas": 8})
    rows = planned(both)
    assert {case for case, _, _ in rows} == {f"case{n}" for n in range(4)}
    assert {informed for _, informed, _ in rows} == {"case1", "case3"}


def test_volumes_of_test_masks_are_exported_as_test_cases(
    config: ResampleConfig, tmp_path: Path
) -> None:
    planned(config.model_copy(update={"splits": BOTH}))
    out = tmp_path / "Dataset9"
    export_run(ExportJob(run=config.out, layout="nnunet", out=out))
    names = {p.relative_to(out).as_posix() for p in out.rglob("*.nii.gz")}
    assert names == {
        *(f"imagesTr/case{n}-r00_0000.nii.gz" for n in (0, 2)),
        *(f"labelsTr/case{n}-r00.nii.gz" for n in (0, 2)),
        *(f"imagesTs/case{n}-r00_0000.nii.gz" for n in (1, 3)),
        *(f"labelsTs/case{n}-r00.nii.gz" for n in (1, 3)),
    }
    assert json.loads((out / "dataset.json").read_text())["numTraining"] == 2
    assert [case.split for case in find_cases(out)] == ["train", "test", "train", "test"]


def test_data_of_test_cases_alone_says_what_to_do(config: ResampleConfig, tmp_path: Path) -> None:
    only = config.model_copy(
        update={"data": make_data(tmp_path / "ts", 2, test_cases=("case0", "case1"))}
    )
    with pytest.raises(RunError, match=r"no case of split train .* give --splits test, or name"):
        resample(only, LoadFake())
    named = only.model_copy(update={"splits": ("test",), "out": tmp_path / "named"})
    with pytest.raises(SamplingError, match=r"in split train\); use informed own, or name other"):
        resample(named, LoadFake())
    own = named.model_copy(update={"informed": ("own",), "out": tmp_path / "own"})
    assert {split for _, _, split in planned(own)} == {"test"}


def test_a_run_begun_before_there_were_splits_goes_on(config: ResampleConfig) -> None:
    planned(config)
    assert isinstance(config.out, Path)
    settings = yaml.safe_load((config.out / "run.yaml").read_text())["settings"]
    assert not {"splits", "informed_splits"} & settings.keys()
    assert resample(config, LoadFake()).worked is False
    with pytest.raises(RunError, match=r"settings.splits was nothing, is now"):
        resample(config.model_copy(update={"splits": BOTH}), LoadFake())


def test_edits_leave_test_cases_alone_unless_named(config: ResampleConfig, tmp_path: Path) -> None:
    common = {
        "data": config.data,
        "weights": config.weights,
        "remove": True,
        "classes": ("spleen",),
    }
    edit = EditConfig.model_validate({**common, "out": tmp_path / "edit"})
    assert edit_lesions(edit, LoadFake()).summary.failed == 0
    assert {r.case_id for r in read_plan(RunFolder(tmp_path / "edit").plan)} == {"case0", "case2"}


def harmonized(tmp_path: Path) -> HarmonizeConfig:
    """Site A's case1 is a test case and would be the medoid: all others are like it."""
    folders = []
    for site in "AB":
        folder = make_data(tmp_path / site, 2, test_cases=("case1",) if site == "A" else ())
        folders.append(f"{site}={folder}")
    return HarmonizeConfig(sites=tuple(folders), out=tmp_path / "run")


def test_harmonizing_leaves_test_cases_out_unless_named(tmp_path: Path) -> None:
    config = harmonized(tmp_path)
    assert set(read_sites(config).site_of) == {"A--case0", "B--case0", "B--case1"}
    both = config.model_copy(update={"splits": BOTH})
    assert set(read_sites(both).site_of) == {f"{s}--case{n}" for s in "AB" for n in (0, 1)}


def test_medoid_is_a_training_case(tmp_path: Path) -> None:
    config = harmonized(tmp_path).model_copy(update={"splits": BOTH})
    sites = read_sites(config)
    folder = RunFolder(tmp_path / "run")
    assert find_medoid(folder, sites, "A").name == "A--case0"
    assert find_medoid(folder, sites, "A", ("test",)).name == "A--case1"
    manifest = read_manifest(tmp_path / "A")
    cases = {i: c.model_copy(update={"split": "test"}) for i, c in manifest.cases.items()}
    write_manifest(tmp_path / "A", manifest.model_copy(update={"cases": cases}))
    with pytest.raises(ConfigError, match=r"no case with an image in site A; .* of split train"):
        find_medoid(folder, read_sites(config), "A")


def test_a_table_names_its_cases(config: ResampleConfig, tmp_path: Path) -> None:
    table = tmp_path / "sites.csv"
    table.write_text("case,site\ncase0,A\ncase1,B\n")
    named = HarmonizeConfig(data=config.data, table=table, out=tmp_path / "run2")
    assert set(read_sites(named).site_of) == {"case0", "case1"}
    assert find_medoid(RunFolder(tmp_path / "r"), read_sites(named), None).name == "case0"
