"""Many volumes on one model: the batch, its order and its accidents change no volume."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import SamplingError
from engine.sampling.networks.latent_model import LatentModel
from engine.sampling.sampler import Sampler, SampleRequest, SamplingConfig
from tests.sampling.tiny_model import EDGE, FAST, request

LENGTHS = (15, 4, 22, 6, 9, 31, 1, 12)


def mixed() -> list[SampleRequest]:
    """Eight volumes that differ in length, mask, informed slice and start."""
    draw = np.random.default_rng(0)
    return [
        request(
            length,
            sample_id=f"v{number}",
            informed=draw.uniform(-1, 1, (EDGE, EDGE)).astype(np.float32),
            informed_position=float(draw.uniform()),
            informed_mask=None if number % 3 else request(length).informed_mask,
        )
        for number, length in enumerate(LENGTHS)
    ]


def load(weights: Path, **changes: Any) -> Sampler:
    return Sampler.load(weights, SamplingConfig.model_validate({**FAST.model_dump(), **changes}))


@pytest.mark.parametrize("known_slices", ["conditioned", "replacement"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddpm"])
def test_a_volume_alone_equals_the_volume_in_a_batch_of_eight(
    weights: Path, solver: str, known_slices: str
) -> None:
    changes = {"solver": solver, "known_slices": known_slices, "num_inference_steps": 3}
    alone = load(weights, max_windows=1, **changes)
    expected = {r.sample_id: alone.sample(r).image for r in mixed()}
    together = load(weights, max_windows=8, **changes)
    found = {o.sample_id: o.result().image for o in together.sample_many(reversed(mixed()))}
    assert found.keys() == expected.keys()
    for name, image in found.items():
        assert np.abs(image - expected[name]).max() < 1e-3 * 2.0


def test_batches_really_mix_volumes_and_steps(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int]] = []
    real = LatentModel.denoise

    def watched(self: LatentModel, items: Sequence[Any], conditions: Sequence[Any]) -> Any:
        steps = {item.evaluation for item in items}
        seen.append((len(items), len({item.volume for item in items}), len(steps)))
        return real(self, items, conditions)

    monkeypatch.setattr(LatentModel, "denoise", watched)
    list(load(weights, max_windows=5).sample_many(mixed()))
    assert 4 <= max(size for size, _, _ in seen) <= 5
    assert max(volumes for _, volumes, _ in seen) >= 3
    assert max(steps for _, _, steps in seen) >= 2


def test_requests_are_taken_as_room_comes_up_and_may_pause(weights: Path) -> None:
    taken: list[str] = []

    def source() -> Iterator[SampleRequest | None]:
        for each in mixed():
            yield None
            taken.append(each.sample_id)
            yield each

    ends = []
    for outcome in load(weights, max_windows=1).sample_many(source()):
        ends.append((outcome.sample_id, len(taken)))
    assert len(ends) == len(LENGTHS)
    assert ends[0][1] < len(LENGTHS), "all requests were taken before the first volume was done"


def test_a_volume_that_fails_leaves_the_others(weights: Path) -> None:
    bad = request(7, sample_id="bad", mask=np.full((7, EDGE, EDGE), 9, dtype=np.uint8))
    outcomes = {o.sample_id: o for o in load(weights).sample_many([*mixed()[:2], bad])}
    assert isinstance(outcomes["bad"].error, SamplingError)
    assert outcomes["v0"].result().image.shape == (15, EDGE, EDGE)
    assert outcomes["v1"].error is None


def test_non_finite_latents_of_one_volume_stop_that_volume_alone(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LatentModel.denoise

    def poisoned(self: LatentModel, items: Sequence[Any], conditions: Sequence[Any]) -> Any:
        result = real(self, items, conditions)
        return [
            x * torch.nan if item.volume == 1 else x for item, x in zip(items, result, strict=True)
        ]

    monkeypatch.setattr(LatentModel, "denoise", poisoned)
    outcomes = {o.sample_id: o for o in load(weights, max_windows=4).sample_many(mixed()[:3])}
    with pytest.raises(SamplingError, match=r"v0: latents of slices \d+ to \d+ are not finite"):
        outcomes["v0"].result()
    assert outcomes["v1"].error is None and outcomes["v2"].error is None


def test_out_of_memory_halves_the_batch_and_loses_nothing(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {o.sample_id: o.result().image for o in load(weights).sample_many(mixed())}
    sizes: list[int] = []
    real_denoise, real_decode = LatentModel.denoise, LatentModel.decode

    def small(self: LatentModel, items: Sequence[Any], conditions: Sequence[Any]) -> Any:
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        sizes.append(len(items))
        return real_denoise(self, items, conditions)

    def decode(self: LatentModel, latents: torch.Tensor, batch: int) -> Any:
        if batch > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return real_decode(self, latents, batch)

    monkeypatch.setattr(LatentModel, "denoise", small)
    monkeypatch.setattr(LatentModel, "decode", decode)
    found = {
        o.sample_id: o.result().image for o in load(weights, max_windows=8).sample_many(mixed())
    }
    assert max(sizes) == 2
    for name, image in found.items():
        assert np.abs(image - expected[name]).max() < 2e-3


def test_a_window_too_big_for_the_device_is_named(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: LatentModel, *_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LatentModel, "denoise", never)
    with pytest.raises(SamplingError, match="s: out of memory with a single window of 6 slices"):
        load(weights, max_windows=4).sample(request())


def test_other_errors_are_not_swallowed(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LatentModel, *_: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(LatentModel, "denoise", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        load(weights).sample(request())


@pytest.mark.parametrize(
    "changes",
    [
        {"arithmetic": "plain"},
        {"decode_beside": False},
        {"max_windows": 1},
        {"decode_batch": 3},
        {"memory_mb": 0.1},
    ],
)
def test_what_makes_it_fast_changes_nothing(weights: Path, changes: dict[str, Any]) -> None:
    fast = {o.sample_id: o.result().image for o in load(weights).sample_many(mixed()[:4])}
    for outcome in load(weights, **changes).sample_many(mixed()[:4]):
        assert np.abs(outcome.result().image - fast[outcome.sample_id]).max() < 2e-3


def test_bfloat16_stays_near_float32(weights: Path) -> None:
    fine = load(weights).sample(request()).image
    coarse = load(weights, precision="bfloat16").sample(request()).image
    assert np.abs(coarse - fine).mean() < 0.02


def test_feature_reuse_is_off_by_default_and_changes_little_when_asked_for(weights: Path) -> None:
    full = load(weights, num_inference_steps=6).sample(request()).image
    same = load(weights, num_inference_steps=6, reuse_features=1).sample(request()).image
    reused = load(weights, num_inference_steps=6, reuse_features=2).sample(request()).image
    assert np.array_equal(full, same)
    assert 0.0 < np.abs(reused - full).mean() < 0.2


def test_reuse_computes_the_deep_layers_only_at_full_steps(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = load(weights, num_inference_steps=5, reuse_features=2, max_windows=3)
    deep_calls = []
    below = sampler.model.denoiser._below

    def counted(*args: Any) -> Any:
        deep_calls.append(1)
        return below(*args)

    monkeypatch.setattr(sampler.model.denoiser, "_below", counted)
    result = sampler.sample(request(6))
    assert result.num_windows == 1
    assert len(deep_calls) == 3  # steps 0, 2 and 4
