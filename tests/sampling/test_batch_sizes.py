"""How much is computed together, by model and memory."""

import pytest
import torch

from engine.sampling.batching.batcher import Batcher
from engine.sampling.config import SamplingConfig
from engine.sampling.networks.batch_sizes import fixed_sizes, slices_that_fit, windows_at_once
from engine.sampling.propagation.windows import plan_windows
from models.presets import PRESETS

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(("preset", "windows"), [("demo", 32), ("gem3d_256", 32), ("gem3d_512", 8)])
def test_small_models_take_more_windows(preset: str, windows: int) -> None:
    assert windows_at_once(SamplingConfig(), PRESETS[preset], CUDA) == windows
    guided = SamplingConfig(guidance_scale=2.0)
    assert windows_at_once(guided, PRESETS[preset], CUDA) == windows // 2
    assert windows_at_once(SamplingConfig(), PRESETS[preset], CPU) == 2
    assert windows_at_once(SamplingConfig(max_windows=5), PRESETS[preset], CUDA) == 5


def test_sizes_are_powers_of_two_and_the_largest() -> None:
    assert fixed_sizes(1) == (1,)
    assert fixed_sizes(8) == (1, 2, 4, 8)
    assert fixed_sizes(12) == (1, 2, 4, 8, 12)


def test_slices_of_an_autoencoder_fit_its_share_of_memory() -> None:
    large, small = PRESETS["gem3d_512"], PRESETS["gem3d_256"]
    assert slices_that_fit(large, torch.float16, 75_000.0) == 8  # 0.8 GB a slice of 6.5 GB
    assert slices_that_fit(large, torch.float16, 14_000.0) == 4  # a V100
    assert slices_that_fit(large, torch.float32, 75_000.0) == 4
    assert slices_that_fit(large, torch.float16, 100.0) == 1
    assert slices_that_fit(small, torch.bfloat16, 75_000.0) == 32


@pytest.mark.parametrize(
    ("num", "run"), [(3, 3), (5, 4), (6, 6), (9, 8), (11, 8), (12, 12), (16, 16)]
)
def test_a_batch_that_would_be_mostly_padding_is_cut(num: int, run: int) -> None:
    batcher = Batcher(16, 1e9, sizes=fixed_sizes(16))
    for key in range(num):
        batcher.add(key, plan_windows(4, 8, 1, 0), 3, 1.0)
    assert len(batcher.next_batch()) == run
