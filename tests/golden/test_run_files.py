"""The files of a run are laid out as they were: records, summary, table, page, plan, export."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from engine.runs.export.export import ExportJob, export_run
from engine.runs.jobs.harmonize import HarmonizeConfig, harmonize
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.making.quality import QualityConfig
from engine.runs.planning.rows import CaseFacts, build_plan
from engine.runs.record.plan import InformedSource
from engine.volumes.nifti import read_image
from tests.golden.compare import check_golden, signature
from tests.golden.layout import check_layout, layout_of, page_of
from tests.runs.fakes import PREPARE, FakeSampler, LoadFake, make_data, make_weights, work_here
from tests.runs.test_harmonize import make_site

SAMPLER = LoadFake(FakeSampler(outlined=False))  # that of the recorded files
QUALITY = QualityConfig(max_outline_gap=1.0, min_detail=0.0, min_roughness=0.0)  # likewise
LARGE = PREPARE.model_copy(update={"size_yx": (128, 128)})
"""Slices that have room for all scales of MS-SSIM."""
SOURCES: tuple[InformedSource, ...] = ("own", "cross")


def read(path: Path) -> Any:
    return layout_of(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of two small cases by source of the informed slices, made without a model."""
    place = tmp_path_factory.mktemp("runs")
    data = make_data(place / "data", 2, prepare=LARGE)
    weights = make_weights(place / "weights", LARGE)
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        for source in SOURCES:
            config = ResampleConfig(
                data=data,
                weights=weights,
                out=place / source,
                informed=(source,),
                num_pictured=0,
                quality=QUALITY,
            )
            assert resample(config, SAMPLER).summary.committed == 2
    return {source: place / source for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES)
def test_run_files(source: InformedSource, runs: dict[str, Path]) -> None:
    run = runs[source]
    check_layout(f"commit, {source}", read(run / "commits" / "case0-r00.json"))
    check_layout(f"summary, {source}", read(run / "summary.json"))
    lines = (run / "volumes.jsonl").read_text().splitlines()
    check_layout(f"volumes, {source}", [layout_of(json.loads(line)) for line in lines])
    check_layout(f"page, {source}", page_of((run / "report.html").read_text()))


def test_harmonization(tmp_path: Path) -> None:
    folders = {name: make_site(tmp_path / name, b) for name, b in (("A", 0.0), ("B", 0.15))}
    config = HarmonizeConfig(
        sites=tuple(f"{name}={folder}" for name, folder in folders.items()),
        weights=make_weights(tmp_path / "weights"),
        out=tmp_path / "run",
        num_pictured=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        harmonize(config, SAMPLER)
    check_layout("harmonization", read(tmp_path / "run" / "harmonization.json"))


def test_plan() -> None:
    facts = {f"case{n}": CaseFacts(12 + 2 * n, has_image=n != 2) for n in range(4)}
    digests = {}
    for source in SOURCES:
        rows = build_plan(facts, [c for c in facts if c != "case2"], source, 2, 5)
        each = "".join(row.sha256 for row in rows)  # does not change when a field is added
        digests[source] = hashlib.sha256(each.encode()).hexdigest()
    check_layout("plan", digests)


def test_export(runs: dict[str, Path]) -> None:
    image = export_run(ExportJob(run=runs["own"]))[0]
    mask = image.parents[1] / "labels" / image.name
    check_golden("export, image", signature(read_image(image).array), 0.02)
    check_layout(
        "export",
        {
            "image header": hashlib.sha256(gzip.decompress(image.read_bytes())[:352]).hexdigest(),
            "mask": hashlib.sha256(gzip.decompress(mask.read_bytes())).hexdigest(),
        },
    )
