"""Every way of conditioning: identity at birth, gradients, what reaches what, dropout, guidance."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from models.conditioning import (
    blank,
    concatenate,
    drop_conditions,
    encode_mask,
    entry_channels,
    guided,
    informed_channels,
)
from models.denoiser import VOLUMETRIC_MARK, Denoiser
from models.presets import PRESETS, DenoiserSpec, Preset
from models.slice_attention import OpenAIAttention, build_attention

CLASSES, TOKENS = 3, 24
WAYS = ("concatenate", "controlnet", "image_attention", "given_tokens")
ENCODINGS = ("one_hot", "grey_vae")


def small(way: str, encoding: str = "one_hot", **changes: object) -> Preset:
    """The demo preset (known flag, painted mask, position, style) at 8 x 8 latents."""
    one_hot = encoding == "one_hot"
    fields = PRESETS["demo"].denoiser.model_dump() | {
        "base_channels": 16,
        "multipliers": (1, 2),
        "attention_px": (8, 4),
        "head_width": 8,
        "mask_encoding": encoding,
        "mask_subpixels": 2 if one_hot else 1,
        "class_intensity_input": one_hot,
        "conditioning": "image_attention" if way == "given_tokens" else way,
        "image_token_width": TOKENS if way == "given_tokens" else None,
        **changes,
    }
    spec = DenoiserSpec.model_validate(fields)
    return PRESETS["demo"].model_copy(update={"denoiser": spec, "size_px": 64})


def inputs(preset: Preset, num: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    edge = preset.latent_px
    given_tokens = preset.denoiser.image_token_width is not None
    tokens = torch.randn(num, 5, TOKENS, generator=generator) if given_tokens else None
    return {
        "x": torch.randn(num, preset.input_channels(CLASSES), edge, edge, generator=generator),
        "t": torch.randint(0, 1000, (num,), generator=generator),
        "heights": torch.rand(num, 2, generator=generator),
        "appearance": torch.rand(num, 2, CLASSES, generator=generator),
        "image_tokens": tokens,
    }


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights in all planes, so that a wrong volumetric layer cannot hide behind zeros."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if VOLUMETRIC_MARK not in f".{name}":
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


@pytest.mark.parametrize(("way", "encoding"), list(product(WAYS, ENCODINGS)))
@torch.no_grad()
def test_stage_2_starts_with_the_output_of_stage_1(way: str, encoding: str) -> None:
    preset = small(way, encoding)
    model, batch = shaken(Denoiser(preset, CLASSES)), inputs(preset)
    flat = model(**batch)
    assert flat.shape == (4, 8, 8, 8)
    assert flat.abs().max() > 0.01
    for num_slices in (2, 4):
        window = model(**batch, num_slices=num_slices)
        torch.testing.assert_close(window, flat, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"slice_position": False, "layout": "openai"}])
@torch.no_grad()
def test_the_public_layout_starts_with_the_output_of_stage_1(changes: dict[str, object]) -> None:
    preset = small("controlnet", **changes)
    model, batch = shaken(Denoiser(preset, CLASSES)), inputs(preset)
    assert any(isinstance(m, OpenAIAttention) for m in model.modules())
    window = model(**batch, num_slices=2)
    torch.testing.assert_close(window, model(**batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_reach_every_part_once_the_zeros_have_moved(way: str) -> None:
    torch.manual_seed(0)
    preset = small(way)
    model, batch = Denoiser(preset, CLASSES), inputs(preset)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    target = torch.randn(4, 8, 8, 8)
    for _ in range(4):  # the exit, then what writes into it, then what writes into that
        optimiser.zero_grad()
        (model(**batch, num_slices=2) - target).square().mean().backward()
        optimiser.step()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("way", WAYS)
def test_frozen_planes_get_no_gradient_in_stage_2(way: str) -> None:
    model = shaken(Denoiser(small(way), CLASSES))
    for parameter in model.plane_parameters():
        parameter.requires_grad_(False)
    model(**inputs(small(way)), num_slices=2).square().mean().backward()
    assert all(p.grad is None for p in model.plane_parameters())
    assert all(p.grad is not None for p in model.volumetric_parameters())


@torch.no_grad()
def test_a_new_control_branch_adds_nothing_and_a_moved_one_does() -> None:
    preset = small("controlnet", style_embedding=False)
    model, batch = Denoiser(preset, CLASSES), inputs(preset)
    for name, parameter in model.named_parameters():
        if ".exits." not in f".{name}" and VOLUMETRIC_MARK not in f".{name}":
            parameter.data += torch.randn(parameter.shape) * 0.1
    changed = batch | {"x": batch["x"].clone()}
    changed["x"][:, 8:] += 1.0  # every condition, no noisy latent
    torch.testing.assert_close(model(**batch), model(**changed), atol=0, rtol=0)
    shaken(model)
    assert (model(**batch) - model(**changed)).abs().max() > 1e-3


@torch.no_grad()
def test_image_attention_sees_the_informed_slice_only_through_tokens() -> None:
    preset = small("image_attention", style_embedding=False)
    model, batch = shaken(Denoiser(preset, CLASSES)), inputs(preset)
    changed = batch | {"x": batch["x"].clone()}
    informed_channels(changed["x"], preset, CLASSES).add_(1.0)
    assert (model(**batch) - model(**changed)).abs().max() > 1e-4
    for module in model.modules():
        if hasattr(module, "norm_tokens"):
            module.out.weight.zero_()
    torch.testing.assert_close(model(**batch), model(**changed), atol=0, rtol=0)


@torch.no_grad()
def test_tokens_of_a_window_serve_all_its_slices() -> None:
    preset = small("given_tokens")
    model, batch = shaken(Denoiser(preset, CLASSES)), inputs(preset)
    of_windows = batch["image_tokens"][:2]
    one_each = of_windows.repeat_interleave(2, dim=0)
    expected = model(**(batch | {"image_tokens": one_each}), num_slices=2)
    found = model(**(batch | {"image_tokens": of_windows}), num_slices=2)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_missing_or_misshapen_tokens_are_refused() -> None:
    preset = small("given_tokens")
    model, batch = Denoiser(preset, CLASSES), inputs(preset)
    with pytest.raises(ValueError, match="give `image_tokens`"):
        model(**(batch | {"image_tokens": None}))
    for shape in [(3, 5, TOKENS), (4, 5, TOKENS + 1), (4, TOKENS), (0, 5, TOKENS)]:
        with pytest.raises(ValueError, match="image_tokens of shape"):
            model(**(batch | {"image_tokens": torch.zeros(shape)}))


@torch.no_grad()
def test_without_slice_position_slice_attention_does_not_know_order() -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.tensor([2, 0, 3, 1])
    differs = {}
    for position in (True, False):
        spec = small("concatenate", slice_position=position).denoiser
        block = build_attention(16, spec)
        for parameter in block.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        x = torch.randn(4, 16, 4, 4, generator=generator)
        differs[position] = (block(x, 4)[order] - block(x[order], 4)).abs().max()
    assert differs[False] < 1e-5 < 1e-3 < differs[True]


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_dropout_blanks_exactly_the_chosen_items_and_channels(
    encoding: str, data: st.DataObject
) -> None:
    preset = small("concatenate", encoding)
    stacked = torch.rand(4, preset.input_channels(CLASSES), 8, 8) + 0.5  # nowhere zero
    drop = torch.tensor(data.draw(st.lists(st.booleans(), min_size=4, max_size=4)))
    mask, informed = data.draw(st.booleans()), data.draw(st.booleans())
    found = drop_conditions(stacked, drop, preset, CLASSES, mask=mask, informed=informed)
    assert torch.equal(found[~drop], stacked[~drop])
    num_mask = preset.mask_channels(CLASSES)
    gone = [False] * 8 + [mask] * num_mask + [informed] * 8 + [False]
    gone += [mask or informed] * (preset.input_channels(CLASSES) - len(gone))
    gone = torch.tensor(gone)
    assert (found[drop][:, gone] == 0.0).all()
    assert torch.equal(found[drop][:, ~gone], stacked[drop][:, ~gone])


def test_the_null_of_a_one_hot_mask_is_not_an_empty_mask() -> None:
    preset = small("concatenate")
    empty = encode_mask(torch.zeros(1, 64, 64, dtype=torch.uint8), preset, CLASSES, None)
    noise, informed = torch.ones(1, 8, 8, 8), torch.ones(1, 8, 8, 8)
    stacked = concatenate(noise, empty, informed, None, torch.ones(1), None, preset)
    found = drop_conditions(stacked, torch.tensor([True]), preset, CLASSES)
    assert not torch.equal(found[:, 8:20], stacked[:, 8:20])


def test_dropping_refuses_what_does_not_fit() -> None:
    preset = small("concatenate")
    stacked = torch.zeros(2, preset.input_channels(CLASSES), 8, 8)
    with pytest.raises(ValueError, match="channels"):
        drop_conditions(stacked[:, 1:], torch.tensor([True, False]), preset, CLASSES)
    for drop in (torch.tensor([True]), torch.tensor([1, 0]), torch.ones(2, 1, dtype=torch.bool)):
        with pytest.raises(ValueError, match="one an item"):
            drop_conditions(stacked, drop, preset, CLASSES)
        with pytest.raises(ValueError, match="one an item"):
            blank(stacked, drop)


def test_blank_zeroes_the_chosen_tokens() -> None:
    tokens = torch.ones(3, 5, 2)
    assert blank(tokens, torch.tensor([False, True, False])).sum(dim=(1, 2)).tolist() == [10, 0, 10]


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_guidance_of_scale_0_and_1_is_either_prediction(a: float, b: float) -> None:
    cond, uncond = torch.tensor([a]), torch.tensor([b])
    torch.testing.assert_close(guided(cond, uncond, 1.0), cond, atol=1e-5, rtol=1e-5)
    assert torch.equal(guided(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(
        guided(cond, uncond, 3.0), cond + 2 * (cond - uncond), atol=1e-4, rtol=1e-4
    )


def test_entry_channels_are_what_the_preset_says() -> None:
    for way, encoding in product(WAYS, ENCODINGS):
        preset = small(way, encoding)
        stacked = torch.randn(2, preset.input_channels(CLASSES), 8, 8)
        entered = entry_channels(stacked, preset, CLASSES)
        assert entered.shape[1] == preset.entry_channels(CLASSES)
        assert torch.equal(entered[:, :8], stacked[:, :8])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditioning": "controlnet", "image_token_width": 8}, "needs conditioning"),
        ({"layout": "openai"}, "slice_position false"),
        ({"conditioning": "cross"}, "concatenate"),
    ],
)
def test_choices_that_do_not_agree_are_refused(changes: dict[str, object], message: str) -> None:
    fields = PRESETS["demo"].denoiser.model_dump() | changes
    with pytest.raises(ValidationError, match=message):
        DenoiserSpec.model_validate(fields)
