"""diffusers' AutoencoderKL without any change of ours: decoding and encoding of single slices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from machine import synchronize

_BATCH = 8


def decode_as_shipped(
    net: Any, latent_channels: int, latent_px: int, device: str, repeats: int
) -> dict[str, Any]:
    """Milliseconds a slice, in half precision on a GPU (`net.half()`), else in float32.

    Args:
        net: an AutoencoderKL.
        latent_channels: of its latents.
        latent_px: edge of its latents.
        device: "cpu" or "cuda".
        repeats: timed batches, after one that warms up.
    """
    dtype = torch.float16 if device == "cuda" else torch.float32
    assert isinstance(net, nn.Module)
    net = net.to(device, dtype).eval()
    latents = torch.randn(_BATCH, latent_channels, latent_px, latent_px).to(device, dtype)
    with torch.inference_mode():
        images = net.decode(latents).sample
        return {
            "precision": str(dtype).removeprefix("torch."),
            "size_px": images.shape[-1],
            "decode_ms_a_slice": _ms_a_slice(lambda: net.decode(latents).sample, device, repeats),
            "encode_ms_a_slice": _ms_a_slice(
                lambda: net.encode(images).latent_dist.mean, device, repeats
            ),
        }


def _ms_a_slice(work: Callable[[], object], device: str, repeats: int) -> float:
    work()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronize(device)
    return round(1e3 * (time.perf_counter() - started) / repeats / _BATCH, 4)
