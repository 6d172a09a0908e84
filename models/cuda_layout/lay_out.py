"""Networks to their layout for a GPU, in place."""

from __future__ import annotations

import torch
from torch import nn

from models.autoencoder import Autoencoder
from models.cuda_layout.attention import FastAttention
from models.cuda_layout.autoencoder import FastCoder
from models.cuda_layout.blocks import FastEntry, FastResize, Projections, fast_res_block
from models.cuda_layout.convolutions import fast_pseudo_conv
from models.cuda_layout.forms import FastForms
from models.cuda_layout.norm import FusedNorm
from models.cuda_layout.probe import best_forms
from models.denoiser.layers import Downsample, PseudoAttention, PseudoConv, ResBlock, Upsample
from models.denoiser.levels import Level, levels_of
from models.denoiser.unet import Denoiser, to_channels_last


def lay_out(
    denoiser: Denoiser, dtype: torch.dtype, device: torch.device, forms: FastForms | None = None
) -> Denoiser:
    """Lay a denoiser out for inference, in place; its weights are no longer those of its file.

    Afterwards it takes float32 latents and conditions as before, computes in `dtype` without
    autocast, and returns `dtype`. What reaches every voxel alike (time, heights, style,
    appearance) and tokens of informed latents stay float32.

    Args:
        denoiser: in evaluation mode, not laid out yet.
        dtype: float32, bfloat16 or float16.
        device: where it will compute; a CPU with Triton's interpreter serves for tests.
        forms: of its layers; None takes the best of the device.

    Returns:
        The same denoiser.
    """
    denoiser.to(device).requires_grad_(False)
    forms, window = forms or best_forms(device, dtype), denoiser.preset.window
    projections = Projections()
    parts = [*levels_of(denoiser.down), denoiser.middle, *levels_of(denoiser.up)]
    if denoiser.control is not None:
        control = denoiser.control
        parts += [*levels_of(control.down), control.middle]
        control.enter = _entry(control.enter, dtype, forms, window)
        control.exits.to(dtype)
    for level in parts:
        _lay_out_level(level, dtype, forms, window, projections)
    projections.close()
    denoiser.project = projections
    denoiser.enter = _entry(denoiser.enter, dtype, forms, window)
    denoiser.leave = _entry(denoiser.leave, dtype, forms, window)
    assert isinstance(denoiser.norm, nn.GroupNorm)
    denoiser.norm, denoiser.activate = FusedNorm(denoiser.norm, forms), nn.Identity()
    denoiser.working_dtype = dtype
    return to_channels_last(denoiser)


def lay_out_autoencoder(
    autoencoder: Autoencoder,
    dtype: torch.dtype,
    device: torch.device,
    forms: FastForms | None = None,
) -> Autoencoder:
    """Lay an autoencoder out for inference; its weights must not change afterwards.

    Afterwards `encode` and `decode` take float32, compute in `dtype` without autocast, and return
    float32. diffusers' module keeps its weights. See `lay_out` for the arguments.

    Returns:
        The same autoencoder.
    """
    autoencoder.to(device).requires_grad_(False)
    autoencoder.coder = FastCoder(autoencoder.net, dtype, forms or best_forms(device, dtype))
    return autoencoder


def _lay_out_level(
    level: Level, dtype: torch.dtype, forms: FastForms, window: int, projections: Projections
) -> None:
    """Replace the layers of one resolution by their fast forms."""
    for index, block in enumerate(level.blocks):
        assert isinstance(block, ResBlock)
        level.blocks[index] = fast_res_block(block, dtype, forms, window, projections)
    for index, attention in enumerate(level.attentions):
        if isinstance(attention, PseudoAttention):
            level.attentions[index] = FastAttention(attention, dtype, forms)
        else:
            attention.to(dtype)
    level.crossings.to(dtype)
    if level.resize is not None:
        assert isinstance(level.resize, Downsample | Upsample)
        level.resize = FastResize(level.resize, dtype, forms, window)


def _entry(conv: nn.Module, dtype: torch.dtype, forms: FastForms, window: int) -> FastEntry:
    assert isinstance(conv, PseudoConv)
    return FastEntry(fast_pseudo_conv(conv, dtype, forms, window))
