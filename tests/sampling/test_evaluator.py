"""Padded and recorded batches give what the network gives for the windows alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.sampling.networks.evaluator import Evaluator, Windows
from engine.sampling.networks.mask_planes import MaskPlanes
from engine.sampling.networks.slice_batches import SliceBatches
from engine.sampling.sampler import Sampler, SamplingConfig
from models.conditions import Conditions
from models.weights.folder import write_manifest
from models.weights.manifest import Manifest
from tests.golden.models import TRAINED
from tests.sampling.played import FailingRecording, PlayedRecording
from tests.sampling.test_sample_many import mixed
from tests.sampling.tiny_model import FAST, WINDOW, write_tiny

SIZES = (1, 2, 4, 8)


class Network:
    """Gives each slice a sum of all it is told; deep features are twice its x."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        alpha: Tensor,
        given: Conditions,
        size: int,
        deep: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        self.lengths.append(len(x))
        assert given.packed is not None and given.mask.shape[1] == 0
        told = given.packed.sum((1, 2, 3)) + given.heights.sum(1) + given.known + t + 10 * alpha
        mean = x.reshape(-1, size, *x.shape[1:]).mean(1).repeat_interleave(size, 0)
        deep = 2 * x if deep is None else deep
        return mean + deep + told.float()[:, None, None, None], deep


def windows(num: int, size: int = 3, seed: int = 0, deep: bool = False) -> Windows:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    given = [
        Conditions(
            mask=normal(size, 5, 4, 4),
            informed=normal(1, 2, 4, 4).expand(size, -1, -1, -1),
            heights=normal(size, 2),
            known=normal(size) > 0,
            appearance=normal(size, 2, 3),
            packed=normal(size, 6, 4, 4),
        )
        for _ in range(num)
    ]
    x = [normal(size, 2, 4, 4) for _ in range(num)]
    t, alpha = normal(num).double(), normal(num).double()
    return Windows(
        x, t, alpha, given, [normal(size, 2, 4, 4) for _ in range(num)] if deep else None
    )


def check(evaluator: Evaluator, told: Windows) -> None:
    expected = Evaluator(Network(), keeps_deep=True)(told)
    found = evaluator(told)
    for one, other in zip(found, expected, strict=True):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make_recording", [None, PlayedRecording])
def test_batches_of_any_size_in_any_order(make_recording: Any) -> None:
    network = Network()
    evaluator = Evaluator(network, SIZES, 3, make_recording, keeps_deep=True)
    for seed, num in enumerate((3, 1, 8, 3, 5, 2, 4, 8, 1)):
        for deep in (False, True):
            check(evaluator, windows(num, seed=seed, deep=deep))
    assert {length // 3 for length in network.lengths} == set(SIZES)


def test_conditions_are_copied_when_they_change_and_x_always() -> None:
    evaluator = Evaluator(Network(), SIZES, 3, PlayedRecording, keeps_deep=True)
    one, other = windows(3, seed=1), windows(3, seed=2)
    check(evaluator, one)
    check(evaluator, Windows(other.x, other.t, other.alpha, one.given))  # the next step
    check(evaluator, Windows(one.x, one.t, one.alpha, [*one.given[:2], other.given[2]]))
    check(evaluator, Windows(one.x[:2], one.t[:2], one.alpha[:2], one.given[:2]))
    check(evaluator, Windows(one.x[:1], one.t[:1], one.alpha[:1], other.given[:1]))
    check(evaluator, one)


def test_what_is_given_back_is_kept_when_the_next_batch_overwrites_the_recordings() -> None:
    evaluator = Evaluator(Network(), SIZES, 3, PlayedRecording)
    first, deep = evaluator(windows(2, seed=1))
    kept = first.clone()
    evaluator(windows(2, seed=2))
    assert torch.equal(first, kept) and deep is None


def test_deep_features_keep_their_layout_in_memory() -> None:
    last, told = torch.channels_last, windows(3, deep=True)
    assert told.deep is not None
    deep = [features.contiguous(memory_format=last) for features in told.deep]
    seen: list[bool] = []

    class Watching(Network):
        def __call__(self, *inputs: Any) -> tuple[Tensor, Tensor]:
            seen.append(inputs[-1].is_contiguous(memory_format=last))
            return super().__call__(*inputs)

    check(
        Evaluator(Watching(), SIZES, 3, PlayedRecording, keeps_deep=True), replace(told, deep=deep)
    )
    assert seen and all(seen)


def test_windows_that_are_not_whole_are_not_recorded() -> None:
    made: list[PlayedRecording] = []

    def make() -> PlayedRecording:
        made.append(PlayedRecording())
        return made[-1]

    evaluator = Evaluator(Network(), SIZES, 3, make, keeps_deep=True)
    check(evaluator, windows(2, size=2))
    assert not made
    for seed in range(3):
        check(evaluator, windows(2, seed=seed))
    assert [(r.num_recorded, r.num_replayed) for r in made] == [(1, 2)]


def test_what_cannot_be_recorded_is_evaluated_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    evaluator = Evaluator(
        Network(), SIZES, 3, lambda: FailingRecording("operation not permitted"), keeps_deep=True
    )
    for seed in range(3):
        check(evaluator, windows(2, seed=seed))
    assert caplog.text.count("launch by launch") == 1


def test_memory_that_runs_out_while_recording_is_told_as_such() -> None:
    evaluator = Evaluator(Network(), SIZES, 3, lambda: FailingRecording("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        evaluator(windows(8))


def recorded(folder: Path, made: list[PlayedRecording] | None, **changes: Any) -> Sampler:
    """A sampler whose evaluations are padded and recorded as on a GPU."""
    config = SamplingConfig.model_validate({**FAST.model_dump(), **changes})
    sampler = Sampler.load(folder, config, device="cpu")
    make: Callable[[], PlayedRecording] | None = None
    if made is not None:

        def make() -> PlayedRecording:
            made.append(PlayedRecording())
            return made[-1]

    model = sampler.model
    model.sizes = (1, 2, 4)
    model._evaluator = Evaluator(model._evaluated, SIZES, WINDOW, make, config.reuse_features > 1)
    model._decoder = SliceBatches(model._decoded, make)
    model._mask_planes = MaskPlanes(SliceBatches(model._encode_planes, make), model.device)
    return sampler


@pytest.fixture(scope="module")
def guidable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny(tmp_path_factory.mktemp("guidable"))
    manifest = Manifest.model_validate_json((folder / "config.json").read_bytes())
    write_manifest(folder, manifest.model_copy(update={"stages": {"volume": TRAINED}}))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"solver": "ddpm", "known_slices": "replacement"},
        {"reuse_features": 2, "num_inference_steps": 4},
        {"guidance_scale": 2.0},
        {"guidance_scale": 2.0, "reuse_features": 2, "num_inference_steps": 3},
    ],
    ids=str,
)
def test_volumes_are_the_same_padded_and_recorded(guidable: Path, changes: dict[str, Any]) -> None:
    config = SamplingConfig.model_validate({**FAST.model_dump(), **changes, "max_windows": 8})
    plain = Sampler.load(guidable, config, device="cpu")
    expected = {o.sample_id: o.result().image for o in plain.sample_many(mixed()[:4])}
    made: list[PlayedRecording] = []
    sampler = recorded(guidable, made, max_windows=8, **changes)
    for outcome in sampler.sample_many(mixed()[:4]):
        image = outcome.result().image
        assert np.abs(image - expected[outcome.sample_id]).max() < 2e-5
    assert sum(r.num_replayed for r in made) > sum(r.num_recorded for r in made) > 0


def test_out_of_memory_while_recording_makes_the_batch_smaller(
    guidable: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = {
        o.sample_id: o.result().image
        for o in Sampler.load(guidable, FAST, device="cpu").sample_many(mixed()[:4])
    }
    sampler = recorded(guidable, [], max_windows=4)
    real = sampler.model._evaluate

    def small(x: Tensor, *rest: Any) -> Any:
        if len(x) > 2 * WINDOW:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(x, *rest)

    sampler.model._evaluate = small
    for outcome in sampler.sample_many(mixed()[:4]):
        image = outcome.result().image
        assert np.abs(image - expected[outcome.sample_id]).max() < 2e-5
    assert caplog.text.count("batches of 2 windows from now") == 1
