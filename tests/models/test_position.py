"""The position model: shapes, what the height changes, and its place in a weights folder."""

from pathlib import Path

import pytest
import torch

from models.denoiser.position import PositionModel
from models.denoiser.unet import VOLUMETRIC_MARK
from models.presets import PRESETS, PositionSpec, Preset
from models.weights.folder import (
    POSITION,
    Manifest,
    WeightsFileError,
    load_position,
    save_weights,
)

SPEC = PositionSpec(
    base_channels=16,
    multipliers=(1, 2),
    num_res_blocks=1,
    attention_px=(8, 4),
    head_width=8,
    position_width=32,
)
SMALL = PRESETS["demo"].model_copy(update={"size_px": 64, "position": SPEC})


def manifest(preset: Preset = SMALL) -> Manifest:
    return Manifest(
        preset=preset,
        num_classes=1,
        class_names=("a",),
        schedule={},
        spacing_mm_yx=1.0,
        modality="mr",
    )


def model(seed: int = 0) -> PositionModel:
    torch.manual_seed(seed)
    made = PositionModel(SMALL)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return made.eval()


@torch.no_grad()
def test_the_height_changes_the_prediction_of_its_own_slice_only() -> None:
    net, x, t = model(), torch.randn(3, 8, 8, 8), torch.tensor([10, 500, 900])
    p = torch.tensor([0.2, 0.5, 0.8])
    before = net(x, t, p)
    assert before.shape == x.shape
    change = (net(x, t, torch.tensor([0.2, 0.6, 0.8])) - before).abs().amax(dim=(1, 2, 3))
    assert change[1] > 1e-4
    assert change[[0, 2]].tolist() == [0.0, 0.0]


def test_it_has_no_volumetric_layer_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    net = PositionModel(SMALL)
    names = [name for name, _ in net.named_parameters()]
    assert not any(VOLUMETRIC_MARK in name for name in names)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    x, t, p = torch.randn(4, 8, 8, 8), torch.tensor([1, 2, 3, 4]), torch.rand(4)
    for _ in range(4):
        optimiser.zero_grad()
        (net(x, t, p) - 1.0).square().mean().backward()
        optimiser.step()
    # one token: softmax is 1 whatever the query is, so queries and their norm cannot learn
    still = [n for n, v in net.named_parameters() if v.grad is None or v.grad.abs().max() < 1e-12]
    assert all(".crossings." in n and (".q." in n or ".norm." in n) for n in still)


def test_one_height_a_slice() -> None:
    with pytest.raises(ValueError, match="one for each of 2"):
        model()(torch.zeros(2, 8, 8, 8), torch.zeros(2), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="has no position model"):
        PositionModel(SMALL.model_copy(update={"position": None}))


@torch.no_grad()
def test_round_trip_through_a_weights_folder(tmp_path: Path) -> None:
    made = model()
    save_weights(tmp_path / POSITION, made.state_dict(), torch.float32)
    loaded = load_position(tmp_path, manifest())
    x, t, p = torch.randn(2, 8, 8, 8), torch.tensor([1, 2]), torch.rand(2)
    assert torch.equal(loaded(x, t, p), made(x, t, p))
    without = manifest(SMALL.model_copy(update={"position": None}))
    with pytest.raises(WeightsFileError, match="has no position model"):
        load_position(tmp_path, without)
    (tmp_path / POSITION).unlink()
    with pytest.raises(WeightsFileError, match="train that stage first"):
        load_position(tmp_path, manifest())


@pytest.mark.parametrize("name", ["demo", "gem3d_256", "gem3d_512"])
def test_every_preset_has_one(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        made = PositionModel(preset)
    edge = preset.latent_px
    x = torch.zeros(1, preset.autoencoder.latent_channels, edge, edge, device="meta")
    t = torch.zeros(1, device="meta")
    assert made.to("meta")(x, t, t).shape == x.shape
    if name == "gem3d_512":
        assert preset.position is not None
        assert preset.position.multipliers == (1, 2, 4, 4)
        assert preset.position.position_width == 128


def test_weights_serve_presets_that_differ_in_the_position_model_only() -> None:
    demo = PRESETS["demo"]
    assert demo.same_slices(demo.model_copy(update={"position": None}))
    assert not demo.same_slices(demo.model_copy(update={"size_px": 64}))
