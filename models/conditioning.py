"""How the mask and the informed slice enter the denoiser: concatenation with the noisy latents.

Knows tensors and presets; encodings that need the autoencoder get it from the caller.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.presets import Preset


def encode_mask(
    mask: Tensor, preset: Preset, num_classes: int, autoencoder: Autoencoder | None
) -> Tensor:
    """Turn class maps into condition channels.

    Args:
        mask: `b y x` integer classes, 0 to num_classes.
        preset: tells the encoding.
        num_classes: classes, background not counted.
        autoencoder: needed for `grey_vae`.

    Returns:
        `b c h w` float32 at latent resolution.
    """
    if preset.denoiser.mask_encoding == "one_hot":
        return one_hot_fractions(mask, preset, num_classes)
    if autoencoder is None:
        raise ValueError("mask encoding grey_vae needs the autoencoder")
    grey = mask.float() / max(num_classes, 1) * 2.0 - 1.0
    return autoencoder.encode(grey[:, None]).mean


def one_hot_fractions(mask: Tensor, preset: Preset, num_classes: int) -> Tensor:
    """Area fraction of each class on sub-pixels of the latent grid, in [-1, 1]."""
    sub = preset.denoiser.mask_subpixels
    one_hot = F.one_hot(mask.long(), num_classes + 1)[..., 1:]
    planes = rearrange(one_hot, "b y x k -> b k y x").float()
    fractions = F.adaptive_avg_pool2d(planes, preset.latent_px * sub)
    folded = rearrange(fractions, "b k (h s) (w r) -> b (k s r) h w", s=sub, r=sub)
    return folded * 2.0 - 1.0


def concatenate(
    x_t: Tensor,
    mask: Tensor,
    informed: Tensor,
    known: Tensor | None,
    alpha: Tensor,
    preset: Preset,
) -> Tensor:
    """Stack the denoiser's input channels.

    Args:
        x_t: `(b n) c h w` noisy latents (clean ones where `known`).
        mask: `(b n) k h w` condition channels of `encode_mask`.
        informed: `(b n) c h w` latent of the informed slice, repeated over the window.
        known: `(b n)` bool; used when the preset has a known-slice input.
        alpha: `(b n)` signal amplitude of x_t; used when the preset fades its noisy input.
        preset: tells which of these exist.
    """
    if known is None:
        known = torch.zeros(len(x_t), dtype=torch.bool, device=x_t.device)
    if preset.denoiser.fade_noisy_input:
        amplitude = torch.where(known, torch.ones_like(alpha), alpha)
        x_t = x_t * amplitude.to(x_t.device, x_t.dtype)[:, None, None, None]
    parts = [x_t, mask.to(x_t.dtype), informed.to(x_t.dtype)]
    if preset.denoiser.known_slice_input:
        flag = known.to(x_t.dtype)[:, None, None, None]
        parts.append(flag.expand(-1, 1, *x_t.shape[-2:]))
    return torch.cat(parts, dim=1)


def informed_channels(stacked: Tensor, preset: Preset, num_classes: int) -> Tensor:
    """The informed slice's latents inside what `concatenate` stacked, `(b n) c h w`."""
    latent = preset.autoencoder.latent_channels
    start = latent + preset.mask_channels(num_classes)
    return stacked[:, start : start + latent]
