"""The sampler over small random weights: reproducible, refusing, independent of its batching."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from engine.errors import ConfigError, SamplingError, WeightsError
from engine.sampling.config import SamplingConfig
from engine.sampling.sampler import Sampler
from models.weights.folder import AUTOENCODER, DENOISER, read_manifest, write_manifest
from tests.sampling.tiny_model import EDGE, FAST, WINDOW, request, tiny


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
    informed = request().informed
    assert informed is not None
    flipped = sampler.sample(request(informed=-informed)).image
    empty = sampler.sample(request(mask=np.zeros_like(request().mask))).image
    unpainted = sampler.sample(request(informed_mask=None)).image
    assert np.abs(plain - unpainted).max() > 1e-4
    assert np.abs(plain - flipped).max() > 1e-3
    assert np.abs(plain - empty).max() > 1e-3


def test_the_reference_profile_is_the_papers(weights: Path) -> None:
    config = SamplingConfig(profile="reference", solver="unipc").resolved(read_manifest(weights))
    assert (config.solver, config.num_inference_steps, config.eta) == ("ddim", 200, 1.0)
    assert (config.overlap, config.precision, config.arithmetic) == (1, "float32", "plain")
    assert (config.known_slices, config.max_windows) == ("conditioned", 1)  # as it was trained
    assert not config.decode_beside


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
    with pytest.raises(ConfigError, match="flow"):
        Sampler.load(tmp_path, SamplingConfig(solver="heun"))
    with pytest.raises(WeightsError, match="not found"):
        Sampler.load(tmp_path, FAST)


def test_weights_of_another_latent_shape_are_refused_by_their_headers(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny().autoencoder.model_copy(update={"latent_channels": 4})
    manifest = read_manifest(weights)
    write_manifest(
        tmp_path,
        manifest.model_copy(update={"preset": tiny().model_copy(update={"autoencoder": spec})}),
    )
    for name in (AUTOENCODER, DENOISER):
        (tmp_path / name).write_bytes((weights / name).read_bytes())
    monkeypatch.setattr("engine.sampling.sampler.load_autoencoder", None)  # must not be reached
    with pytest.raises(WeightsError, match="another architecture"):
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
        {"solver": "dpmpp_2m", "eta": 0.5},
        {"solver": "plms"},
        {"solver": "ddpm", "eta": 1.0},
        {"known_slices": "conditioned", "num_resamples": 2},
        {"timestep_spacing": "exponential"},
        {"steps": 3},
    ],
)
def test_impossible_sampling_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SamplingConfig.model_validate(bad)


def test_damaged_weights_stop_the_volume_with_a_name(weights: Path) -> None:
    sampler = Sampler.load(weights, FAST)
    next(sampler.model.denoiser.parameters()).data.fill_(float("inf"))
    with pytest.raises(SamplingError, match=r"s: latents of slices .* not finite at step 1 of 2"):
        sampler.sample(request())


def test_the_steps_are_the_weights_unless_the_user_says(weights: Path) -> None:
    assert Sampler.load(weights, SamplingConfig(overlap=2)).solver.num_evaluations == 5
    given = SamplingConfig(overlap=2, num_inference_steps=3)
    assert Sampler.load(weights, given).solver.num_evaluations == 3


@pytest.mark.parametrize(
    ("recommended", "given", "expected"),
    [
        (None, None, "dpmpp_2m"),
        ("ddim", None, "ddim"),
        ("ddim", "unipc", "unipc"),
        (None, "ddpm", "ddpm"),
    ],
)
def test_the_solver_is_the_weights_unless_the_user_says(
    weights: Path, recommended: str | None, given: str | None, expected: str
) -> None:
    manifest = read_manifest(weights).model_copy(update={"solver": recommended})
    config = SamplingConfig.model_validate({"solver": given})
    assert config.resolved(manifest).solver == expected


def test_flow_weights_are_sampled_by_euler_unless_the_user_says(weights: Path) -> None:
    flow = {"kind": "flow", "prediction_type": "flow"}
    manifest = read_manifest(weights).model_copy(update={"schedule": flow})
    assert SamplingConfig().resolved(manifest).solver == "euler"
    assert SamplingConfig(solver="dpmpp_2m").resolved(manifest).solver == "dpmpp_2m"


def test_a_recommendation_that_cannot_be_followed_is_refused(weights: Path) -> None:
    manifest = read_manifest(weights).model_copy(update={"solver": "magic"})
    with pytest.raises(ConfigError, match="recommends solver 'magic', which is not known; give"):
        SamplingConfig().resolved(manifest)
    with pytest.raises(ConfigError, match=r"eta 0\.5 needs solver ddim, not dpmpp_2m"):
        SamplingConfig(eta=0.5).resolved(read_manifest(weights))
    heun = read_manifest(weights).model_copy(update={"solver": "heun"})
    with pytest.raises(ConfigError, match="solver heun follows flow schedules"):
        SamplingConfig().resolved(heun)
