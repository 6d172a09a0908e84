"""Which arithmetic the denoiser uses on the device at hand."""

from __future__ import annotations

import torch

from engine.errors import ConfigError


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` -> the fastest safe type; a named one is taken when the device has it.

    Raises:
        ConfigError: float16 asked for on a CPU.
    """
    if name == "auto":
        return _fastest(device)
    if name == "float16" and device.type == "cpu":
        raise ConfigError("precision float16 needs a GPU; use float32 or bfloat16 on a CPU")
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[name]


def _fastest(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    # Without AVX512-BF16 a CPU emulates bfloat16, slower than float32.
    has_bf16 = bool(torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if has_bf16 else torch.float32
