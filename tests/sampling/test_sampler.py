"""The sampler over small random weights: reproducible, refusing, independent of its batching."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from engine.errors import ConfigError, SamplingError, WeightsError
from engine.sampling.config import SamplingConfig
from engine.sampling.sampler import Sampler, SampleRequest
from engine.sampling.schedule import ScheduleConfig
from models.autoencoder import Autoencoder
from models.denoiser import Denoiser
from models.presets import PRESETS, Preset
from models.weights import AUTOENCODER, DENOISER, Manifest, save_weights, write_manifest

EDGE, WINDOW = 32, 6


def tiny() -> Preset:
    demo = PRESETS["demo"]
    denoiser = demo.denoiser.model_copy(
        update={"base_channels": 32, "multipliers": (1, 1), "attention_px": (4,)}
    )
    return demo.model_copy(update={"size_px": EDGE, "window": WINDOW, "denoiser": denoiser})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    manifest = Manifest(
        preset=tiny(),
        num_classes=2,
        class_names=("organ", "body"),
        schedule=ScheduleConfig(zero_terminal_snr=True, prediction_type="v").model_dump(),
        spacing_mm_yx=3.0,
        modality="ct",
    )
    torch.manual_seed(0)
    denoiser = Denoiser(manifest.preset, 2)
    for parameter in denoiser.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    write_manifest(folder, manifest)
    save_weights(folder / AUTOENCODER, Autoencoder(manifest.preset.autoencoder).state_dict())
    save_weights(folder / DENOISER, denoiser.state_dict())
    return folder


def request(num_slices: int = 15, **changes: Any) -> SampleRequest:
    mask = np.zeros((num_slices, EDGE, EDGE), dtype=np.uint8)
    mask[:, 8:24, 8:24] = 2
    mask[3:9, 12:18, 12:18] = 1
    informed = np.linspace(-1, 1, EDGE * EDGE, dtype=np.float32).reshape(EDGE, EDGE)
    fields: dict[str, Any] = {"sample_id": "s", "seed": 7, "mask": mask, "informed": informed}
    fields["informed_mask"] = mask[num_slices // 2]
    return SampleRequest(**{**fields, "informed_position": 0.5, **changes})


FAST = SamplingConfig(num_inference_steps=2, overlap=2, precision="float32")


def test_the_same_request_gives_the_same_volume_and_another_seed_another(weights: Path) -> None:
    sampler = Sampler.load(weights, FAST)
    first, again = sampler.sample(request()), sampler.sample(request())
    assert np.array_equal(first.image, again.image)
    assert first.image.shape == (15, EDGE, EDGE)
    assert first.image.dtype == np.float32
    assert np.abs(first.image).max() <= 1.0
    other = sampler.sample(request(seed=8))
    assert np.abs(first.image - other.image).max() > 1e-3


def test_decoding_in_other_batches_changes_nothing(weights: Path) -> None:
    one = Sampler.load(weights, FAST.model_copy(update={"decode_batch": 1})).sample(request())
    many = Sampler.load(weights, FAST.model_copy(update={"decode_batch": 16})).sample(request())
    assert np.abs(one.image - many.image).max() < 2e-3


@pytest.mark.parametrize("num_slices", [1, 5, 6, 7, 13])
def test_every_length_works(weights: Path, num_slices: int) -> None:
    seen: list[tuple[int, int]] = []
    result = Sampler.load(weights, FAST).sample(
        request(num_slices), on_window=lambda done, of: seen.append((done, of))
    )
    assert result.image.shape[0] == num_slices
    assert np.isfinite(result.image).all()
    assert seen[-1] == (result.num_windows, result.num_windows)


def test_mask_and_informed_slice_both_matter(weights: Path) -> None:
    sampler = Sampler.load(weights, FAST)
    plain = sampler.sample(request()).image
    flipped = sampler.sample(request(informed=-request().informed)).image
    empty = sampler.sample(request(mask=np.zeros_like(request().mask))).image
    unpainted = sampler.sample(request(informed_mask=None)).image
    assert np.abs(plain - unpainted).max() > 1e-4
    assert np.abs(plain - flipped).max() > 1e-3
    assert np.abs(plain - empty).max() > 1e-3


def test_the_reference_profile_is_the_papers(weights: Path) -> None:
    config = SamplingConfig(profile="reference").resolved(recommended_steps=4)
    assert (config.solver, config.num_inference_steps, config.eta) == ("ddim", 200, 1.0)
    assert (config.overlap, config.precision) == (1, "float32")
    assert not config.conditioned(tiny())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.zeros((4, 16, 16), dtype=np.uint8)}, "prepare with the preset's size_yx"),
        ({"mask": np.full((4, EDGE, EDGE), 3, dtype=np.uint8)}, "the model knows 2"),
        ({"informed": np.zeros((8, 8), dtype=np.float32)}, "informed slice"),
        ({"informed": np.full((EDGE, EDGE), np.nan, dtype=np.float32)}, "finite"),
    ],
)
def test_requests_that_do_not_fit_are_refused(
    weights: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SamplingError, match=message):
        Sampler.load(weights, FAST).sample(request(**changes))


def test_impossible_settings_are_refused_before_any_model_is_loaded(
    weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((weights / "config.json").read_bytes())
    with pytest.raises(ConfigError, match="overlap"):
        Sampler.load(tmp_path, SamplingConfig(overlap=WINDOW))
    with pytest.raises(WeightsError, match="not found"):
        Sampler.load(tmp_path, FAST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "euler"}, "solver euler"),
        ({"solver": "heun"}, "solver heun"),
        ({"timestep_spacing": "karras"}, "karras"),
        ({"timestep_spacing": "leading", "num_inference_steps": 1}, "leading"),
    ],
)
def test_what_the_schedule_cannot_do_is_refused_before_anything_is_loaded(
    weights: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_text((weights / "config.json").read_text())
    with pytest.raises(ConfigError, match=message):  # not that the weights are missing
        Sampler.load(tmp_path, SamplingConfig.model_validate({"overlap": 2, **changes}))


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_3m_sde", "unipc"])
def test_every_kind_of_solver_samples(weights: Path, solver: Any) -> None:
    config = SamplingConfig(solver=solver, num_inference_steps=2, overlap=2, precision="float32")
    sampler = Sampler.load(weights, config)
    first, second = (sampler.sample(request()).image for _ in range(2))
    assert np.isfinite(first).all() and np.array_equal(first, second)


@pytest.mark.parametrize(
    "bad",
    [
        {"num_inference_steps": 0},
        {"overlap": 0},
        {"eta": 0.5},
        {"solver": "plms"},
        {"steps": 3},
    ],
)
def test_impossible_sampling_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SamplingConfig.model_validate(bad)


def test_damaged_weights_stop_the_volume_with_a_name(weights: Path) -> None:
    sampler = Sampler.load(weights, FAST)
    next(sampler.denoiser.parameters()).data.fill_(float("inf"))
    with pytest.raises(SamplingError, match=r"s: latents of slices .* not finite at step 1 of 2"):
        sampler.sample(request())


def test_the_steps_are_the_weights_unless_the_user_says(weights: Path) -> None:
    assert Sampler.load(weights, SamplingConfig(overlap=2)).solver.num_evaluations == 10
    given = SamplingConfig(overlap=2, num_inference_steps=3)
    assert Sampler.load(weights, given).solver.num_evaluations == 3
