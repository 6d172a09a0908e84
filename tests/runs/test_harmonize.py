"""Several sites under one roof; one slice for all; a report that tells better from worse."""

import json
from pathlib import Path

import numpy as np
import pytest

import jobs.harmonize_sites as job
from engine.errors import ConfigError
from engine.runs.audit.verify import derived_from
from engine.runs.jobs.harmonize import HarmonizeConfig, harmonize, read_sites, richest_slice
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import read_plan
from engine.volumes.prepared.manifest import read_manifest, write_manifest
from engine.volumes.prepared.store import read_prepared, write_prepared
from engine.volumes.store import hash_tree
from tests.runs.fakes import FakeSampler, LoadFake, make_data, make_weights


def make_site(folder: Path, brighter: float) -> Path:
    """The same patients as at every site, with another scanner's intensities."""
    make_data(folder)
    manifest = read_manifest(folder)
    entries = {}
    for name, entry in manifest.cases.items():
        path = folder / f"{name}.zarr"
        case = read_prepared(path)
        assert case.image is not None
        image = np.clip(np.where(case.mask > 0, case.image + brighter, case.image), -1, 1)
        write_prepared(path, type(case)(**{**vars(case), "image": image.astype(np.float32)}))
        digest = "".join(hash_tree(path).values())[:64]
        entries[name] = entry.model_copy(update={"sha256": digest})
    write_manifest(folder, manifest.model_copy(update={"cases": entries}))
    return folder


@pytest.fixture
def config(tmp_path: Path) -> HarmonizeConfig:
    sites = {"A": 0.0, "B": 0.15, "C": 0.3}
    folders = {name: make_site(tmp_path / "sites" / name, b) for name, b in sites.items()}
    return HarmonizeConfig(
        sites=tuple(f"{name}={folder}" for name, folder in folders.items()),
        weights=make_weights(tmp_path / "weights"),
        out=tmp_path / "run",
        num_pictured=1,
    )


@pytest.mark.usefixtures("no_ray")
def test_all_cases_get_the_medoids_slice(config: HarmonizeConfig) -> None:
    outcome = harmonize(config, LoadFake())
    assert (outcome.summary.committed, outcome.summary.failed) == (9, 0)
    rows = read_plan(RunFolder(config.out).plan)
    assert {row.informed_case[:1] for row in rows} == {"B"}, "the middle site's look"
    assert len({(row.informed_case, row.informed_z) for row in rows}) == 1
    assert {row.case_id for row in rows} == {f"{s}--case{n}" for s in "ABC" for n in range(3)}
    source = read_prepared(config.out.parent / "sites" / rows[0].informed_source)
    assert rows[0].informed_z == richest_slice(source)
    assert len(derived_from(RunFolder(config.out), rows[0].informed_case)) == 9

    raw = json.loads((config.out / "harmonization.json").read_text())
    assert len(raw["volumes"]) == 9
    (spread,) = raw["spread"].values()
    assert spread.keys() == {"liver", "spleen", "body"}
    assert spread["liver"]["before"] == pytest.approx(0.15 * np.sqrt(2 / 3) * 2 * 125, rel=0.2)
    assert rows[0].informed_case not in {name.removesuffix("-r00") for name in raw["damaged"]}
    own = f"{rows[0].informed_case}:{rows[0].informed_z}"
    (reference,) = [v for v in raw["volumes"] if v["sample_id"].startswith(rows[0].informed_case)]
    assert raw["own_error"][own] == pytest.approx(_mean(reference["after"]), abs=0.02)
    for volume in raw["volumes"]:
        assert volume["before"].keys() == volume["after"].keys()
        gain = _mean(volume["before"]) - _mean(volume["after"])
        settled = volume is reference or "organs" in volume["farther"]
        assert volume["unproven"] == (not settled and gain < raw["own_error"][own]), volume
        redrawn = volume is not reference and volume["redrawn"] > volume["shifted"]
        assert ("anatomy" in volume["farther"]) == redrawn, volume
        assert (volume["sample_id"] in raw["damaged"]) == bool(volume["farther"])
    page = (config.out / "harmonization.html").read_text()
    assert "not for diagnosis" in page
    assert page.count("data:image/png;base64,") == 1
    assert not harmonize(config, LoadFake(FakeSampler(fail=frozenset({"x"})))).worked


@pytest.mark.usefixtures("no_ray")
def test_several_slices_give_several_versions(config: HarmonizeConfig) -> None:
    outcome = harmonize(
        config.model_copy(update={"slices": ("A--case0", "C--case1:3")}), LoadFake()
    )
    assert outcome.summary.committed == 18
    names = {v.sample_id for v in outcome.summary.volumes}
    assert {"A--case0-A--case0.6-r00", "B--case2-C--case1.3-r00"} <= names
    raw = json.loads((config.out / "harmonization.json").read_text())
    assert raw["references"] == ["A--case0:6", "C--case1:3"]


def test_a_table_names_the_sites_of_one_folder(config: HarmonizeConfig, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    table = tmp_path / "sites.csv"
    table.write_text("case,site\ncase0,north\ncase1,south\n")
    by_table = HarmonizeConfig(data=data, table=table, weights=config.weights)
    assert read_sites(by_table).site_of == {"case0": "north", "case1": "south"}
    for text, message in (
        ("case,site\ncase0,north\n", "one site only"),
        ("case,site\nnobody,north\n", "sites.csv:2: case 'nobody'"),
        ("case,site\ncase0,north\ncase0,south\n", "sites.csv:3"),
        ("a,b\n1,2\n", "no table with the columns"),
        ("case,site\ncase0,../../etc\ncase1,a\n", "is refused"),
    ):
        table.write_text(text)
        with pytest.raises(Exception, match=message):
            read_sites(by_table)


@pytest.mark.usefixtures("no_ray")
def test_impossible_sites_are_refused(
    config: HarmonizeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    for sites, message in (
        (config.sites[:1], "two or more"),
        ((config.sites[0], "nowhere"), "NAME=FOLDER"),
        ((config.sites[0], "X=nowhere"), "not a folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_sites(config.model_copy(update={"sites": sites}))
    with pytest.raises(
        ConfigError, match=r"no case with an image in site Z; the sites are A, B, C"
    ):
        harmonize(config.model_copy(update={"reference_site": "Z"}), LoadFake())
    assert job.main([]) == 2
    assert "no sites" in capsys.readouterr().err


def _mean(distances: dict[str, float]) -> float:
    return float(np.mean(list(distances.values())))
