"""A network laid out for a GPU gives what it gave before, in every form that a CPU can run."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import product
from typing import TypeVar

import pytest
import torch

from models.autoencoder import Autoencoder
from models.cuda_layout import PLAIN_FORMS, FastForms, best_forms, lay_out, lay_out_autoencoder
from models.denoiser.unet import Denoiser
from models.presets import PRESETS, AutoencoderSpec
from tests.models.test_conditionings import CLASSES, ENCODINGS, WAYS, inputs, small

CPU = torch.device("cpu")
ON_CPU = {
    "default": PLAIN_FORMS,
    "plain": replace(PLAIN_FORMS, slice_conv="volume", upsample="plain"),
    "transposed": replace(PLAIN_FORMS, upsample="transposed", wide_attention="products"),
}
LAYOUTS: tuple[dict[str, object], ...] = (
    {},
    {"slice_position": False},
    {"layout": "openai", "slice_position": False},
)
AUTOENCODERS = {
    "demo": PRESETS["demo"].autoencoder,
    "like KL-f8": AutoencoderSpec(
        image_channels=3,
        latent_channels=4,
        block_channels=(16, 32),
        num_layers=2,
        mid_attention=True,
        norm_groups=8,
    ),
}


Module = TypeVar("Module", bound=torch.nn.Module)


def shaken(model: Module) -> Module:
    """All weights away from zero and from each other, so that no layer hides behind another."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


def range_off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference in units of the wanted values' range."""
    assert found.shape == wanted.shape
    return float((found.float() - wanted).abs().max() / (wanted.max() - wanted.min()))


@pytest.mark.parametrize("form", ON_CPU)
@pytest.mark.parametrize(("way", "encoding"), list(product(WAYS, ENCODINGS)))
@torch.inference_mode()
def test_the_denoiser_stays_what_it_was(way: str, encoding: str, form: str) -> None:
    for changes in LAYOUTS:
        preset = small(way, encoding, **changes)
        model, batch = shaken(Denoiser(preset, CLASSES)), inputs(preset)
        laid = lay_out(copy.deepcopy(model), torch.float32, CPU, ON_CPU[form])
        for num_slices in (None, 1, 2, 4):
            found = batch.to(laid, num_slices)
            assert range_off(found, batch.to(model, num_slices)) < 1e-5, (changes, num_slices)


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.04), (torch.float16, 0.005)])
@torch.inference_mode()
def test_half_precision_stays_near(dtype: torch.dtype, most: float) -> None:
    preset = small("controlnet")
    model, batch = shaken(Denoiser(preset, CLASSES)), inputs(preset)
    laid = lay_out(copy.deepcopy(model), dtype, CPU, PLAIN_FORMS)
    found = batch.to(laid, 2)
    assert found.dtype == dtype
    assert range_off(found, batch.to(model, 2)) < most
    coder = shaken(Autoencoder(AUTOENCODERS["like KL-f8"]))
    images = torch.rand(2, 1, 16, 24) * 2 - 1
    wanted = coder.decode(coder.encode(images).mean)
    lay_out_autoencoder(coder, dtype, CPU, PLAIN_FORMS)
    found = coder.decode(coder.encode(images).mean)
    assert found.dtype == torch.float32
    assert range_off(found, wanted) < most


@torch.inference_mode()
def test_deep_features_and_packed_conditions_are_taken_as_before() -> None:
    preset = small("concatenate")
    laid = lay_out(shaken(Denoiser(preset, CLASSES)), torch.float32, CPU, PLAIN_FORMS)
    batch = inputs(preset)
    told = (batch.x_t, batch.t, batch.alpha, laid.pack(batch.conditions), 2)
    output, deep = laid(*told)
    again, _ = laid(*told, deep)
    assert torch.equal(again, output)
    assert torch.equal(batch.to(laid, 2), output)


@torch.inference_mode()
def test_windows_of_a_batch_do_not_mix() -> None:
    preset = small("concatenate")
    laid = lay_out(shaken(Denoiser(preset, CLASSES)), torch.float32, CPU, PLAIN_FORMS)
    together = inputs(preset, 8)
    first = type(together)(
        together.x_t[:4],
        together.t[:4],
        together.alpha[:4],
        type(together.conditions)(
            **{k: v if v is None else v[:4] for k, v in vars(together.conditions).items()}  # type: ignore[arg-type]
        ),
    )
    assert range_off(first.to(laid, 4), together.to(laid, 4)[:4]) < 1e-5


@pytest.mark.parametrize("form", ON_CPU)
@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.inference_mode()
def test_the_autoencoder_stays_what_it_was(name: str, form: str) -> None:
    spec = AUTOENCODERS[name]
    model = shaken(Autoencoder(spec))
    draw = torch.Generator().manual_seed(1)
    mean = torch.randn(spec.latent_channels, generator=draw)
    model.set_statistics(mean, torch.rand(spec.latent_channels, generator=draw) + 0.5)
    images = torch.rand(3, 1, 32, 16, generator=draw) * 2 - 1
    moments = model.encode(images)
    wanted = model.decode(moments.mean)
    weights = {name: value.clone() for name, value in model.net.state_dict().items()}
    laid = lay_out_autoencoder(model, torch.float32, CPU, ON_CPU[form])
    found = laid.encode(images)
    assert range_off(found.mean, moments.mean) < 1e-5
    assert range_off(found.log_variance, moments.log_variance) < 1e-5
    assert range_off(laid.decode(moments.mean), wanted) < 1e-5
    kept = laid.net.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in weights.items())


def test_a_device_without_triton_gets_the_plain_forms() -> None:
    forms = best_forms(CPU)
    assert (forms.norm, forms.slice_attention) == ("plain", "plain")
    assert FastForms().norm == "triton"
