"""Informed slices from the position model: a whole job, with real networks and no Ray."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.evaluation.outlines import outline_seen
from engine.runs.audit.verify import VerifyJob, verify_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.planning.gate import GateConfig, flag_drawn
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import POSITION_MODEL, read_plan
from engine.sampling.config import SamplingConfig
from engine.sampling.networks.slices import draw_slice
from engine.volumes.store import read_informed, read_ome_zarr
from models.autoencoder import Autoencoder
from models.denoiser.position import PositionModel
from models.denoiser.unet import Denoiser
from models.weights.folder import (
    AUTOENCODER,
    DENOISER,
    POSITION,
    load_autoencoder,
    load_position,
    read_manifest,
    save_weights,
    write_manifest,
)
from tests.runs.fakes import make_data, make_weights
from tests.sampling.test_slices import SMALL_POSITION

pytestmark = pytest.mark.usefixtures("no_ray")
NAMES = [f"case{number}-r0{replica}" for number in (0, 1) for replica in (0, 1)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with a position model."""
    folder = make_weights(tmp_path_factory.mktemp("weights"))
    manifest = read_manifest(folder)
    preset = manifest.preset.model_copy(update={"position": SMALL_POSITION})
    manifest = manifest.model_copy(update={"preset": preset})
    torch.manual_seed(1)
    networks = {
        AUTOENCODER: Autoencoder(manifest.preset.autoencoder),
        DENOISER: Denoiser(manifest.preset, manifest.num_classes),
        POSITION: PositionModel(manifest.preset),
    }
    for name, network in networks.items():
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
        save_weights(folder / name, network.state_dict())
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def generated(weights: Path, tmp_path: Path) -> ResampleConfig:
    """Two masks of cases without any image, two volumes each."""
    return ResampleConfig(
        data=make_data(tmp_path / "data", 2, without_image=("case0", "case1")),
        weights=weights,
        out=tmp_path / "run",
        informed=("generated",),
        replicas=2,
        num_pictured=1,
        sampling=SamplingConfig(num_inference_steps=1, precision="float32"),
        gate=GateConfig(policy="skip"),
    )


def slices_of(config: ResampleConfig, **update: Any) -> dict[str, np.ndarray]:
    config = config.model_copy(update=update)
    summary = resample(config).summary
    assert (summary.failed, summary.skipped) == (0, 0)
    volumes = [volume.sample_id for volume in summary.volumes]
    return {name: read_informed(RunFolder(config.out).volume(name)) for name in volumes}


def test_slices_are_drawn_for_each_volume_and_kept_beside_it(
    generated: ResampleConfig, weights: Path
) -> None:
    slices = slices_of(generated)
    folder = RunFolder(generated.out)
    assert sorted(slices) == NAMES
    assert len({plane.tobytes() for plane in slices.values()}) == len(NAMES)
    manifest = read_manifest(weights)
    networks = load_autoencoder(weights, manifest), load_position(weights, manifest)
    for row in read_plan(folder.plan):
        assert (row.informed_case, row.informed_source) == (POSITION_MODEL, "")
        assert row.informed_z == row.num_slices // 2
        height = row.informed_z / (row.num_slices - 1)
        again = draw_slice(manifest, *networks, height, generated.seed, row.sample_id)
        np.testing.assert_allclose(slices[row.sample_id], again, atol=1e-3)
        commit = ledger.read_commit(folder, row.sample_id)
        assert commit is not None
        assert any("generated slice's outline disagrees" in flag for flag in commit.quality.flags)
        assert any(name.startswith("informed/c/") for name in commit.files)
        assert commit.target_z == row.informed_z
        attributes = read_ome_zarr(folder.volume(row.sample_id))[2]
        assert attributes["provenance"]["informed"] == "generated"
    assert "appearance of position model" in folder.report.read_text()
    verdict = verify_run(VerifyJob(run=generated.out))
    assert (verdict.sound, verdict.findings) == (4, [])


def test_a_slice_depends_on_the_seed_and_not_on_the_run(
    generated: ResampleConfig, tmp_path: Path
) -> None:
    first = slices_of(generated, replicas=1)
    other_run = slices_of(generated, out=tmp_path / "again", cases=("case1",), replicas=1)
    other_seed = slices_of(generated, out=tmp_path / "seed", cases=("case1",), replicas=1, seed=1)
    assert np.array_equal(first["case1-r00"], other_run["case1-r00"])
    assert np.abs(first["case1-r00"] - other_seed["case1-r00"]).max() > 1e-3


def test_an_outline_is_seen_in_a_slice_without_a_mask() -> None:
    y, x = np.mgrid[:40, :48]
    body = ((y - 19) / 15) ** 2 + ((x - 23) / 18) ** 2 < 1
    gas = (y - 19) ** 2 + (x - 23) ** 2 < 16
    table = y > 37
    plane = np.where((body & ~gas) | table, 0.1, -1.0).astype(np.float32)
    assert np.array_equal(outline_seen(plane), body), "gas is inside, the table is not"
    assert not outline_seen(np.full_like(plane, -1.0)).any()
    mask, other = body.astype(np.uint8), np.roll(body, 14, axis=1).astype(np.uint8)
    warn, off = GateConfig(), GateConfig(policy="off")
    assert flag_drawn(plane, mask, "body", warn) == ()
    (flag,) = flag_drawn(plane, other, "body", warn)
    assert flag.startswith("generated slice's outline disagrees with the mask's by 0.")
    assert flag_drawn(plane, other, "body", off) == ()
    assert flag_drawn(plane, other, None, warn) == ()


def test_another_reader_agrees_on_the_metadata(generated: ResampleConfig) -> None:
    models = pytest.importorskip("ome_zarr_models.v05.image")
    import zarr

    slices_of(generated, cases=("case0",), replicas=1)
    path = RunFolder(generated.out).volume("case0-r00")
    models.Image.from_zarr(zarr.open_group(str(path), mode="r"))
