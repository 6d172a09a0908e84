"""Intensities in whole units, as a setting of the plan."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from engine.errors import RunError
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.export.export import ExportJob, export_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.making.voxels.stored import as_stored
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import read_identity
from engine.volumes.store import read_ome_zarr
from engine.volumes.volume import IntensityWindow, Volume
from tests.runs.fakes import LoadFake

HU = IntensityWindow(-200.0, 300.0, "HU", -1024.0)


def image(out: Path, name: str) -> np.ndarray:
    volume, _, _ = read_ome_zarr(out / "volumes" / f"{name}.ome.zarr")
    return np.asarray(volume.array)


@pytest.mark.usefixtures("no_ray")
def test_a_run_in_whole_units(config: ResampleConfig, tmp_path: Path) -> None:
    plain = config.model_copy(update={"num_pictured": 1})
    whole = plain.model_copy(update={"stored": "int16", "out": tmp_path / "whole"})
    for one in (plain, whole):
        assert resample(one, LoadFake()).summary.committed == 3
    assert isinstance(plain.out, Path)
    assert isinstance(whole.out, Path)
    for name in ("case0-r00", "case2-r00"):
        kept, rounded = image(plain.out, name), image(whole.out, name)
        assert [str(kept.dtype), str(rounded.dtype)] == ["float32", "int16"]
        np.testing.assert_array_equal(rounded, np.rint(kept))
    assert verify_run(VerifyJob(run=whole.out)).is_sound
    paths = export_run(ExportJob(run=whole.out))
    exported = nib.nifti1.load(paths[0])
    assert exported.get_data_dtype() == np.int16
    np.testing.assert_array_equal(
        np.asarray(exported.dataobj).transpose(2, 1, 0), image(whole.out, "case0-r00")
    )
    assert (whole.out / "report.html").exists()


@pytest.mark.usefixtures("no_ray")
def test_it_is_part_of_the_plan(config: ResampleConfig) -> None:
    resample(config, LoadFake())
    folder = RunFolder(config.out)
    assert "stored" not in read_identity(folder.identity).settings, "as older runs have it"
    with pytest.raises(RunError, match="stored"):
        resample(config.model_copy(update={"stored": "int16"}), LoadFake())


@pytest.mark.parametrize(
    ("window", "kind"),
    [
        (HU, "int16"),
        (IntensityWindow(0.0, 2000.0, "a.u.", 0.0), "int16"),
        (IntensityWindow(0.0, 999.0, "a.u.", 0.0), "float32"),
        (IntensityWindow(0.0, 40000.0, "a.u.", 0.0), "float32"),
        (IntensityWindow(-1.5, 2.5, "a.u.", 0.0, masked=True), "float32"),
    ],
)
def test_units_that_are_coarse_or_large_stay_float32(window: IntensityWindow, kind: str) -> None:
    values = np.linspace(window.low, window.high, 8, dtype=np.float32).reshape(2, 2, 2)
    volume = Volume(values, np.eye(4), "made")
    stored = as_stored(volume, window, "int16")
    assert stored.array.dtype == kind
    width = window.high - window.low
    assert np.abs(stored.array - values).max() <= 0.5 / 1000 * max(width, 1000.0)
    assert as_stored(volume, window, "float32") is volume
