"""Classifier-free guidance in the sampler: its formula, its refusal, its place in batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.sampling.config import SamplingConfig
from engine.sampling.diffusion.schedule import Level
from engine.sampling.propagation.volume_state import DenoiseItem
from engine.sampling.propagation.windows import Window
from engine.sampling.sampler import Sampler
from models.autoencoder import Autoencoder
from models.conditions import Conditions
from models.denoiser.unet import Denoiser
from models.presets import DenoiserSpec
from models.weights.folder import Manifest, load_autoencoder, load_denoiser, read_manifest
from tests.sampling.test_sample_many import mixed
from tests.sampling.tiny_model import FAST, WINDOW, request

DROPPED = {"volume": {"condition_dropout": 0.1}}
WAYS = ("concatenate", "controlnet", "image_attention")
LEVEL = Level(0.6, 0.8)


def config(**changes: Any) -> SamplingConfig:
    return SamplingConfig.model_validate({**FAST.model_dump(), **changes})


def trained_with_dropout(weights: Path, **changes: Any) -> Sampler:
    manifest = read_manifest(weights).model_copy(update={"stages": DROPPED})
    networks = load_autoencoder(weights, manifest), load_denoiser(weights, manifest)
    return Sampler(manifest, *networks, config(**changes))


def conditioned_by(weights: Path, way: str, encoding: str, **changes: Any) -> Sampler:
    """A random model of another conditioning or mask encoding."""
    manifest = read_manifest(weights)
    fields = manifest.preset.denoiser.model_dump() | {"conditioning": way}
    if encoding == "grey_vae":
        fields |= {"mask_encoding": encoding, "mask_subpixels": 1, "class_intensity_input": False}
    spec = DenoiserSpec.model_validate(fields)
    preset = manifest.preset.model_copy(update={"denoiser": spec})
    manifest = manifest.model_copy(update={"preset": preset, "stages": DROPPED})
    torch.manual_seed(3)
    denoiser = Denoiser(preset, manifest.num_classes)
    for parameter in denoiser.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return Sampler(manifest, Autoencoder(preset.autoencoder), denoiser, config(**changes))


def item(known: Tensor, x: Tensor, t: int = 600) -> DenoiseItem:
    return DenoiseItem(1, Window(2, 2 + WINDOW), x, known, t, LEVEL, 0, None, {})


@torch.no_grad()
def outputs_by_hand(sampler: Sampler, known: Tensor, x: Tensor, t: int = 600) -> list[Tensor]:
    """The network's output for slices 2 to 7 of the request, with conditions and without."""
    told = sampler.model.encode(request()).window(2, 2 + WINDOW, known)
    nothing = Conditions(
        mask=torch.zeros_like(told.mask),
        informed=torch.zeros_like(told.informed),
        heights=told.heights,
        known=known,
        appearance=torch.zeros_like(told.appearance),
    )
    times, alpha = torch.full((WINDOW,), t), torch.full((WINDOW,), LEVEL.alpha)
    return [sampler.model.denoiser(x, times, alpha, c, WINDOW)[0] for c in (told, nothing)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("encoding", ["one_hot", "grey_vae"])
def test_a_scale_equals_the_formula_by_hand(weights: Path, way: str, encoding: str) -> None:
    sampler = conditioned_by(weights, way, encoding, guidance_scale=2.5)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(WINDOW, 8, 4, 4, generator=generator)
    known = torch.tensor([True, True, False, False, False, False])
    with_all, without = outputs_by_hand(sampler, known, x)
    assert (with_all - without).abs().max() > 1e-3, "the conditions do not matter to this model"
    v = without + 2.5 * (with_all - without)
    (found,) = sampler.model.denoise([item(known, x)], [sampler.model.encode(request())])
    torch.testing.assert_close(found, LEVEL.alpha * x - LEVEL.sigma * v, atol=2e-4, rtol=1e-3)
    x_0 = [LEVEL.alpha * x - LEVEL.sigma * output for output in (with_all, without)]
    torch.testing.assert_close(found, x_0[1] + 2.5 * (x_0[0] - x_0[1]), atol=2e-4, rtol=1e-3)


def test_scale_1_evaluates_one_half_and_changes_no_bit(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = trained_with_dropout(weights, guidance_scale=1.0)
    lengths: list[int] = []
    real = sampler.model._evaluate

    def watched(x_t: Tensor, *rest: Any) -> Any:
        lengths.append(len(x_t))
        return real(x_t, *rest)

    monkeypatch.setattr(sampler.model, "_evaluate", watched)
    found = sampler.sample(request()).image
    assert set(lengths) == {WINDOW, 2 * WINDOW}, "the first window, then UP and DOWN"
    assert np.array_equal(found, Sampler.load(weights, FAST).sample(request()).image)


def test_scale_0_does_not_see_the_conditions(weights: Path) -> None:
    sampler = trained_with_dropout(weights, guidance_scale=0.0)
    empty = np.zeros_like(request().mask)
    plain, blind = (sampler.sample(request(mask=m)).image for m in (request().mask, empty))
    assert np.array_equal(plain, blind)


@pytest.mark.parametrize("changes", [{}, {"reuse_features": 2}, {"known_slices": "replacement"}])
def test_a_guided_volume_alone_equals_it_in_company(weights: Path, changes: dict[str, Any]) -> None:
    changes = {"guidance_scale": 2.0, "num_inference_steps": 4, **changes}
    alone = trained_with_dropout(weights, max_windows=1, **changes)
    together = trained_with_dropout(weights, max_windows=12, **changes)
    found = {o.sample_id: o.result().image for o in together.sample_many(mixed()[:5])}
    for each in mixed()[:5]:
        assert np.abs(alone.sample(each).image - found[each.sample_id]).max() < 2e-3


def test_reuse_keeps_the_features_of_both_halves(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deep features of the same step, kept and given back, change nothing in either half."""
    sampler = trained_with_dropout(weights, guidance_scale=3.0, reuse_features=2)
    x, known = torch.randn(WINDOW, 8, 4, 4), torch.zeros(WINDOW, dtype=torch.bool)
    first, conditions = item(known, x), [sampler.model.encode(request())]
    expected = sampler.model.denoise([first], conditions)[0]
    calls: list[int] = []
    monkeypatch.setattr(sampler.model.denoiser, "_below", lambda *_: calls.append(1))
    again = DenoiseItem(**{**vars(first), "evaluation": 1})
    torch.testing.assert_close(sampler.model.denoise([again], conditions)[0], expected)
    assert not calls


def test_guidance_halves_the_windows_of_a_batch_and_counts_what_is_kept(weights: Path) -> None:
    cpu = torch.device("cpu")
    assert config(max_windows=8).windows_in_a_batch(cpu) == 8
    assert config(max_windows=8, guidance_scale=2.0).windows_in_a_batch(cpu) == 4
    assert config(max_windows=1, guidance_scale=2.0).windows_in_a_batch(cpu) == 1
    held = [
        trained_with_dropout(weights, reuse_features=period, guidance_scale=scale).model.volume_mb(
            30
        )
        for period, scale in ((1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0))
    ]
    assert held[0] == held[1] < held[2] < held[3]
    assert held[3] - held[0] == pytest.approx(2 * (held[2] - held[0]))


@pytest.mark.parametrize(
    "stages",
    [
        {},
        {"volume": {}},
        {"slice": {"condition_dropout": 0.1}, "volume": {"condition_dropout": 0.0}},
        {"volume": {"condition_dropout": 0.1}, "distill": {"condition_dropout": 0.0}},
        {"volume": {"condition_dropout": "half"}},
    ],
)
def test_weights_trained_with_all_conditions_are_not_guided(
    weights: Path, stages: dict[str, Any]
) -> None:
    manifest = read_manifest(weights).model_copy(update={"stages": stages})
    with pytest.raises(ConfigError, match=r"guidance_scale 2: .* condition_dropout above 0"):
        config(guidance_scale=2.0).resolved(manifest)
    assert config(guidance_scale=1.0).resolved(manifest).guidance_scale == 1.0


def test_the_reference_profile_is_guided_as_asked(weights: Path) -> None:
    manifest: Manifest = read_manifest(weights).model_copy(update={"stages": DROPPED})
    asked = SamplingConfig(profile="reference", guidance_scale=2.0)
    assert asked.resolved(manifest).guidance_scale == 2.0
