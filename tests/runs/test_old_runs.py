"""A run of format 2 made by an earlier commit is verified, exported, continued or refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from engine.errors import RunError
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.export.export import ExportJob, export_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record.folder import RunFolder
from tests.runs.fakes import make_weights, on_disk

OLD = Path(__file__).parent / "old_runs" / "format_2"
WEIGHTS = Path(__file__).parents[1] / "models" / "old_weights" / "0.1.0"
RANGE_HU = 500.0


@pytest.fixture
def config(tmp_path: Path, no_ray: None) -> ResampleConfig:
    """The settings that the run was made with, and a copy of it."""
    shutil.copytree(OLD / "run", tmp_path / "run")
    return ResampleConfig.model_validate(
        {
            "data": OLD / "data",
            "weights": WEIGHTS,
            "out": tmp_path / "run",
            "informed": ("cross",),
            "num_pictured": 0,
            "sampling": {"num_inference_steps": 2, "overlap": 2, "precision": "float32"},
            "gate": {"policy": "off"},
            "quality": {"policy": "off"},
        }
    )


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_verified_and_exported(config: ResampleConfig) -> None:
    verdict = verify_run(VerifyJob(run=config.out))
    assert (verdict.planned, verdict.committed, verdict.sound) == (3, 2, 2)
    assert verdict.is_sound
    assert len(export_run(ExportJob(run=config.out))) == 2


def test_it_is_continued_with_the_volume_that_was_missing(config: ResampleConfig) -> None:
    folder = RunFolder(config.out)
    before = {name: content(on_disk(folder.volume(name))) for name in ("case0-r00", "case1-r00")}
    assert resample(config).summary.committed == 3
    assert {name: content(on_disk(folder.volume(name))) for name in before} == before
    made = zarr.open_group(str(folder.volume("case2-r00")), mode="r")["0"]
    expected = np.load(OLD / "volume_of_case2.npz")["image"] / 32
    np.testing.assert_allclose(np.asarray(made), expected, atol=1e-3 * RANGE_HU)
    assert verify_run(VerifyJob(run=config.out)).is_sound


def test_other_weights_and_settings_are_refused_by_name(
    config: ResampleConfig, tmp_path: Path
) -> None:
    before = content(on_disk(config.out))
    with pytest.raises(RunError, match=r"settings\.seed was 0, is now 1"):
        resample(config.model_copy(update={"seed": 1}))
    make_weights(tmp_path / "weights")
    with pytest.raises(RunError, match=r"begun otherwise: weights"):
        resample(config.model_copy(update={"weights": tmp_path / "weights"}))
    after = content(on_disk(config.out))
    assert {path: after[path] for path in before} == before
