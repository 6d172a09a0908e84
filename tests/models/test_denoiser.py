"""The denoiser: identity at birth, shapes, and the sizes of the presets."""

import pytest
import torch

from models.denoiser.attention import attend
from models.denoiser.layers import Attention, PseudoAttention, PseudoConv, SliceConv
from models.denoiser.unet import Denoiser, to_channels_last
from models.presets import PRESETS, Preset
from tests.models.made import Given, given

DEMO = PRESETS["demo"]


def small(**changes: object) -> Preset:
    denoiser = DEMO.denoiser.model_copy(update={"base_channels": 32, "head_width": 16, **changes})
    return DEMO.model_copy(update={"denoiser": denoiser, "size_px": 64})


def shaken(model: Denoiser) -> Denoiser:
    """Random weights in all planes, so that a wrong volumetric layer cannot hide behind zeros."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".slices." not in f".{name}":
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return model.eval()


def inputs(preset: Preset, num: int = 6) -> Given:
    return given(preset, num, num_classes=3)


@torch.no_grad()
def test_volumetric_layers_are_identity_at_birth() -> None:
    model = shaken(Denoiser(small(), num_classes=3))
    batch = inputs(small())
    flat = batch.to(model, None)
    assert flat.abs().max() > 0.01
    torch.testing.assert_close(batch.to(model, 6), flat, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(batch.to(model, 3), flat, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_after_training_slices_of_a_window_see_each_other_but_not_other_windows() -> None:
    model = shaken(Denoiser(small(), num_classes=3))
    for parameter in model.volumetric_parameters():
        parameter.data = torch.randn(parameter.shape) * 0.1
    batch = inputs(small())
    before = batch.to(model, 3)
    batch.x_t[0] += 1.0
    change = (batch.to(model, 3) - before).abs().amax(dim=(1, 2, 3))
    assert (change[:3] > 1e-4).all()
    assert (change[3:] == 0).all()


@torch.no_grad()
def test_channels_last_gives_the_same_result() -> None:
    model = shaken(Denoiser(small(), num_classes=3))
    batch = inputs(small())
    expected = batch.to(model, 3)
    found = batch.to(to_channels_last(model), 3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_slice_convolution_equals_the_papers_rearrange() -> None:
    layer = SliceConv(8)
    layer.weight.data = torch.randn(8, 8, 3)
    layer.bias.data = torch.randn(8)
    x = torch.randn(10, 8, 4, 5)
    rows = x.reshape(2, 5, 8, 4, 5).permute(0, 3, 4, 2, 1).reshape(2 * 4 * 5, 8, 5)
    rows = torch.nn.functional.conv1d(rows, layer.weight, layer.bias, padding=1)
    expected = rows.reshape(2, 4, 5, 8, 5).permute(0, 4, 3, 1, 2).reshape(10, 8, 4, 5)
    torch.testing.assert_close(layer(x, 5), expected, atol=1e-4, rtol=1e-4)


def test_attend_equals_softmax_attention() -> None:
    q, k, v = (torch.randn(2, 7, 3, 8) for _ in range(3))
    scores = torch.einsum("bthc,bshc->bhts", q, k) / 8**0.5
    expected = torch.einsum("bhts,bshc->bthc", scores.softmax(dim=-1), v)
    torch.testing.assert_close(attend(q, k, v), expected, atol=1e-5, rtol=1e-4)


def test_zero_output_attention_returns_its_input() -> None:
    tokens = torch.randn(2, 5, 32)
    assert torch.equal(Attention(32, 16, zero_output=True)(tokens), tokens)


def test_parameters_split_into_plane_and_volumetric() -> None:
    model = Denoiser(small(), num_classes=3)
    slices = {id(p) for p in model.volumetric_parameters()}
    planes = {id(p) for p in model.plane_parameters()}
    assert not slices & planes
    assert slices | planes == {id(p) for p in model.parameters()}
    of_modules = [m for m in model.modules() if isinstance(m, PseudoConv | PseudoAttention)]
    assert slices == {id(p) for m in of_modules for p in m.slices.parameters()}


@pytest.mark.parametrize(
    ("name", "latent_px", "channels"), [("gem3d_256", 32, 12), ("gem3d_512", 64, 12)]
)
def test_the_papers_presets_have_its_shapes(name: str, latent_px: int, channels: int) -> None:
    preset = PRESETS[name]
    assert preset.latent_px == latent_px
    assert preset.input_channels(num_classes=4) == channels
    with torch.device("meta"):
        model = Denoiser(preset, num_classes=4)
    plane = sum(p.numel() for p in model.plane_parameters()) / 1e6
    volumetric = sum(p.numel() for p in model.volumetric_parameters()) / 1e6
    if name == "gem3d_512":
        assert round(plane) == 274, "the paper's 2D network has about 274 M parameters"
        assert round(volumetric) == 94, "and about 94 M in its volumetric layers"


def test_class_intensities_come_in_the_training_datas_standard_deviations() -> None:
    model = Denoiser(small(), num_classes=2)
    means = torch.tensor([[0.0, 0.5], [0.4, 0.5], [9.0, 0.5]])
    present = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    model.set_appearance_statistics(torch.stack([means, present], dim=1))
    found = model.normalise_appearance(torch.tensor([[[0.4, 0.5], [1.0, 0.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
