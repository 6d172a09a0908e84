"""What a volume may depend on: in float32 nothing but its request; the rest is bounded."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import ConfigError
from engine.sampling.config import SamplingConfig
from engine.sampling.networks.precision import choose_precision, device_precisions, own_device
from engine.sampling.sampler import Sampler
from tests.sampling.tiny_model import FAST, request

RANGE = 2.0
ONE_VOLUME = """
import sys, numpy as np, torch
from pathlib import Path
from engine.sampling.sampler import Sampler
from tests.sampling.tiny_model import FAST, request
torch.set_num_threads(1)
image = Sampler.load(Path(sys.argv[1]), FAST, device="cpu").sample(request()).image
np.save(sys.argv[2], image)
"""


def volume(weights: Path, **changes: Any) -> np.ndarray:
    config = SamplingConfig.model_validate({**FAST.model_dump(), "precision": "auto", **changes})
    return Sampler.load(weights, config, device="cpu").sample(request()).image


def largest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max()) / RANGE


@pytest.mark.parametrize(
    "changes",
    [{"arithmetic": "plain"}, {"decode_batch": 5}, {"decode_beside": False}, {"max_windows": 1}],
    ids=str,
)
def test_a_volume_does_not_depend_on_how_it_is_computed(weights: Path, changes: Any) -> None:
    assert largest(volume(weights), volume(weights, **changes)) < 1e-3


def test_a_volume_does_not_depend_on_the_number_of_threads(weights: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = volume(weights)
        torch.set_num_threads(2)
        assert largest(alone, volume(weights)) < 1e-3
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="the switches are those of Linux builds")
def test_a_volume_does_not_depend_on_the_processor(weights: Path, tmp_path: Path) -> None:
    """An older processor is played by switching the newer instructions off."""
    old = {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    }
    command = [sys.executable, "-c", ONE_VOLUME, str(weights), str(tmp_path / "old.npy")]
    root = str(Path(__file__).parents[2])
    subprocess.run(command, env={**os.environ, **old, "PYTHONPATH": root}, cwd=root, check=True)
    assert largest(volume(weights), np.load(tmp_path / "old.npy")) < 1e-3


def test_auto_is_float32_on_every_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_precision("auto", torch.device("cpu")) == torch.float32


def test_a_loaded_sampler_computes_no_tf32(weights: Path) -> None:
    """Which torch takes for convolutions by itself, where a card has it."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    Sampler.load(weights, FAST, device="cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_gpu_that_emulates_bfloat16_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says yes for a V100 unless it is asked for the real thing."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert device_precisions(torch.device("cuda")) == ("float16", "float32")


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a CPU can do bfloat16 and float32.*precision float32"):
        choose_precision("float16", torch.device("cpu"))


def test_a_driver_that_does_not_fit_is_named(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).")

    monkeypatch.setattr("engine.sampling.networks.precision._begin", too_old)
    message = r"torch .* cannot use a GPU here: .*driver.*12040.*CUDA_VISIBLE_DEVICES=-1"
    with pytest.raises(ConfigError, match=message):
        Sampler.load(weights, FAST, device="cuda")
    with pytest.raises(ConfigError, match=message):
        own_device()


@pytest.mark.parametrize(
    "words",
    [
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        "No CUDA GPUs are available",
        "Torch not compiled with CUDA enabled",
    ],
)
def test_a_computer_without_a_gpu_is_a_cpu(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def without() -> None:
        raise RuntimeError(words)

    monkeypatch.setattr("engine.sampling.networks.precision._begin", without)
    assert own_device() == "cpu"
