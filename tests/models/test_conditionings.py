"""Every way of conditioning: identity at birth, gradients, what reaches what, dropout, guidance."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.conditions import Conditions, guided
from models.denoiser.image_attention import CrossAttention
from models.denoiser.slice_attention import OpenAIAttention, build_attention
from models.denoiser.unet import VOLUMETRIC_MARK, Denoiser
from models.mask_encoding import encode_mask
from models.presets import PRESETS, DenoiserSpec, Preset
from tests.models.made import Given, channels_seen, given

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


def inputs(preset: Preset, num: int = 4) -> Given:
    return given(preset, num, CLASSES, TOKENS)


def shaken(model: Denoiser) -> Denoiser:
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
    flat = batch.to(model)
    assert flat.shape == (4, 8, 8, 8)
    assert flat.abs().max() > 0.01
    for num_slices in (2, 4):
        window = batch.to(model, num_slices)
        torch.testing.assert_close(window, flat, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"slice_position": False, "layout": "openai"}])
@torch.no_grad()
def test_the_public_layout_starts_with_the_output_of_stage_1(changes: dict[str, Any]) -> None:
    preset = small("controlnet", **changes)
    model, batch = shaken(Denoiser(preset, CLASSES)), inputs(preset)
    assert any(isinstance(m, OpenAIAttention) for m in model.modules())
    window = batch.to(model, 2)
    torch.testing.assert_close(window, batch.to(model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_reach_every_part_once_the_zeros_have_moved(way: str) -> None:
    torch.manual_seed(0)
    preset = small(way)
    model, batch = Denoiser(preset, CLASSES), inputs(preset)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    target = torch.randn(4, 8, 8, 8)
    for _ in range(4):  # the exit, then what writes into it, then what writes into that
        optimiser.zero_grad()
        (batch.to(model, 2) - target).square().mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("way", WAYS)
def test_frozen_planes_get_no_gradient_in_stage_2(way: str) -> None:
    model = shaken(Denoiser(small(way), CLASSES))
    for parameter in model.plane_parameters():
        parameter.requires_grad_(False)
    inputs(small(way)).to(model, 2).square().mean().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in model.plane_parameters())
    assert all(p.grad is not None for p in model.volumetric_parameters())


@torch.no_grad()
def test_a_new_control_branch_adds_nothing_and_a_moved_one_does() -> None:
    preset = small("controlnet", style_embedding=False)
    model, batch = Denoiser(preset, CLASSES), inputs(preset)
    for name, parameter in model.named_parameters():
        if ".exits." not in f".{name}" and VOLUMETRIC_MARK not in f".{name}":
            parameter.data += torch.randn(parameter.shape) * 0.1
    told = batch.conditions
    changed = batch.but(mask=told.mask + 1.0, informed=told.informed + 1.0)
    torch.testing.assert_close(batch.to(model), changed.to(model), atol=0, rtol=0)
    shaken(model)
    assert (batch.to(model) - changed.to(model)).abs().max() > 1e-3


@torch.no_grad()
def test_image_attention_sees_the_informed_slice_only_through_tokens() -> None:
    preset = small("image_attention", style_embedding=False)
    model, batch = shaken(Denoiser(preset, CLASSES)), inputs(preset)
    changed = batch.but(informed=batch.conditions.informed + 1.0)
    assert (batch.to(model) - changed.to(model)).abs().max() > 1e-4
    for module in model.modules():
        if isinstance(module, CrossAttention):
            module.out.weight.zero_()
    torch.testing.assert_close(batch.to(model), changed.to(model), atol=0, rtol=0)


def test_missing_or_misshapen_tokens_are_refused() -> None:
    preset = small("given_tokens")
    model, batch = Denoiser(preset, CLASSES), inputs(preset)
    with pytest.raises(ValueError, match="give `tokens`"):
        batch.but(tokens=None).to(model)
    for shape in [(3, 5, TOKENS), (2, 5, TOKENS), (4, 5, TOKENS + 1), (4, TOKENS)]:
        with pytest.raises(ValueError, match="tokens of shape"):
            batch.but(tokens=torch.zeros(shape)).to(model)


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
@drawn(st.lists(st.booleans(), min_size=4, max_size=4))
@settings(max_examples=16, deadline=None)
def test_dropout_blanks_exactly_the_chosen_slices(encoding: str, chosen: list[bool]) -> None:
    preset = small("given_tokens", encoding)
    model, told = Denoiser(preset, CLASSES), inputs(preset).conditions
    told = Conditions(**{**vars(told), "known": torch.tensor([True, False, True, False])})
    drop = torch.tensor(chosen)
    found = told.without(drop)
    for name in ("mask", "informed", "appearance", "tokens"):
        before, after = getattr(told, name), getattr(found, name)
        assert torch.equal(after[~drop], before[~drop]), name
        assert (after[drop] == 0.0).all(), name
    assert torch.equal(found.heights, told.heights)
    assert torch.equal(found.known, told.known)
    seen, before = channels_seen(model, found), channels_seen(model, told)
    assert torch.equal(seen[~drop], before[~drop])
    flag = preset.mask_channels(CLASSES)
    assert torch.equal(seen[:, flag], before[:, flag])
    others = [index for index in range(seen.shape[1]) if index != flag]
    assert (seen[drop][:, others] == 0.0).all(), "painted channels go with the rest"


def test_the_null_of_a_one_hot_mask_is_not_an_empty_mask() -> None:
    empty = encode_mask(
        torch.zeros(1, 64, 64, dtype=torch.uint8), small("concatenate"), CLASSES, None
    )
    told = Conditions.of_volume(empty, torch.ones(1, 8, 8, 8), 0.5, torch.zeros(1, 2, CLASSES))
    assert not torch.equal(told.without(torch.tensor([True])).mask, empty)


def test_dropping_refuses_what_does_not_fit() -> None:
    told = inputs(small("concatenate"), num=2).conditions
    for drop in (torch.tensor([True]), torch.tensor([1, 0]), torch.ones(2, 1, dtype=torch.bool)):
        with pytest.raises(ValueError, match="one a slice"):
            told.without(drop)


def test_a_window_is_a_part_of_its_volume() -> None:
    draw = torch.Generator().manual_seed(0)
    mask = torch.randn(9, 3, 4, 4, generator=draw).half()
    informed, seen = torch.randn(1, 8, 4, 4, generator=draw), torch.rand(1, 2, 3, generator=draw)
    tokens = torch.randn(1, 5, TOKENS, generator=draw)
    volume = Conditions.of_volume(mask, informed, 0.25, seen, tokens)
    known = torch.tensor([True, False, False])
    window = volume.window(4, 7, known)
    assert window.mask.dtype == torch.float32
    assert torch.equal(window.mask, mask[4:7].float())
    assert window.heights.tolist() == [[4 / 8, 0.25], [5 / 8, 0.25], [6 / 8, 0.25]]
    assert window.known is known
    for found, of_volume in ((window.informed, informed), (window.tokens, tokens)):
        assert found is not None
        assert torch.equal(found, of_volume.expand(3, *of_volume.shape[1:]))
    moved = window.informed_by(informed + 1, 0.75, tokens + 1)
    assert moved.heights.tolist() == [[4 / 8, 0.75], [5 / 8, 0.75], [6 / 8, 0.75]]
    assert torch.equal(moved.informed, window.informed + 1)
    assert torch.equal(moved.appearance, window.appearance), "its classes are the patient's"


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_packing_beforehand_and_joining_changes_nothing(way: str) -> None:
    preset = small(way)
    model, batch = shaken(Denoiser(preset, CLASSES)), inputs(preset)
    halves = [
        Conditions(**{n: v if v is None else v[z] for n, v in vars(batch.conditions).items()})  # type: ignore[arg-type]
        for z in (slice(2), slice(2, 4))
    ]
    packed = Conditions.cat([model.pack(half) for half in halves])
    assert packed.packed is not None
    assert Conditions.cat([model.pack(halves[0]), halves[1]]).packed is None
    found, _ = model(batch.x_t, batch.t, batch.alpha, packed, 2)
    torch.testing.assert_close(found, batch.to(model, 2), atol=1e-6, rtol=1e-5)


@drawn(st.floats(-3, 3), st.floats(-3, 3))
def test_guidance_of_scale_0_and_1_is_either_prediction(a: float, b: float) -> None:
    cond, uncond = torch.tensor([a]), torch.tensor([b])
    torch.testing.assert_close(guided(cond, uncond, 1.0), cond, atol=1e-5, rtol=1e-5)
    assert torch.equal(guided(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(
        guided(cond, uncond, 3.0), cond + 2 * (cond - uncond), atol=1e-4, rtol=1e-4
    )


def test_channels_are_as_many_as_the_preset_says() -> None:
    for way, encoding in product(WAYS, ENCODINGS):
        preset = small(way, encoding)
        packed = channels_seen(Denoiser(preset, CLASSES), inputs(preset).conditions)
        latent, is_control = preset.autoencoder.latent_channels, way == "controlnet"
        entering = preset.input_channels(CLASSES) if is_control else preset.entry_channels(CLASSES)
        assert packed.shape[1] == entering - latent


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


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_deep_features_of_the_same_step_change_nothing(way: str) -> None:
    preset = small(way)
    model, batch = shaken(Denoiser(preset, CLASSES)), inputs(preset)
    told = (batch.x_t, batch.t, batch.alpha, batch.conditions, 2)
    output, deep = model(*told)
    torch.testing.assert_close(batch.to(model, 2), output, atol=0, rtol=0)
    again, kept = model(*told, deep)
    torch.testing.assert_close(again, output, atol=0, rtol=0)
    assert kept is deep
