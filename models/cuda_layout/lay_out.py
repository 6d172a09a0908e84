"""Networks to their layout for a GPU, in place."""

from __future__ import annotations

import torch
from torch import nn

from models.autoencoder import Autoencoder
from models.cuda_layout.forms import FastForms
from models.denoiser import Denoiser, to_channels_last


def lay_out(
    denoiser: Denoiser, dtype: torch.dtype, device: torch.device, forms: FastForms | None = None
) -> Denoiser:
    """Lay a denoiser out for inference, in place; its weights must not change afterwards.

    Afterwards it takes float32 latents and conditions as before, computes in `dtype` without
    autocast, and returns `dtype`. What reaches every voxel alike (time, heights, style,
    appearance) and tokens of informed latents stay float32.

    Args:
        denoiser: in evaluation mode.
        dtype: float32, bfloat16 or float16.
        device: where it will compute; a CPU with Triton's interpreter serves for tests.
        forms: of its layers; None takes the best of the device.

    Returns:
        The same denoiser.
    """
    denoiser.to(device).requires_grad_(False)
    for part in _spatial_parts(denoiser):
        for name, parameter in part.named_parameters():
            if ".embed." not in name:
                parameter.data = parameter.data.to(dtype)
    denoiser.working_dtype = dtype
    return to_channels_last(denoiser)


def lay_out_autoencoder(
    autoencoder: Autoencoder,
    dtype: torch.dtype,
    device: torch.device,
    forms: FastForms | None = None,
) -> Autoencoder:
    """Lay an autoencoder out for inference, in place; its weights must not change afterwards.

    Afterwards `encode` and `decode` take float32, compute in `dtype` without autocast, and return
    float32. See `lay_out` for the arguments.

    Returns:
        The same autoencoder.
    """
    autoencoder.to(device).requires_grad_(False)
    for parameter in autoencoder.net.parameters():
        parameter.data = parameter.data.to(dtype)
    autoencoder.working_dtype = dtype
    return to_channels_last(autoencoder)


def _spatial_parts(denoiser: Denoiser) -> list[nn.Module]:
    parts = (
        denoiser.enter, denoiser.down, denoiser.middle, denoiser.control, denoiser.up,
        denoiser.norm, denoiser.leave,
    )  # fmt: skip
    return [part for part in parts if part is not None]
