"""Masks as condition channels, and what an informed slice tells of their classes.

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


def class_appearance(image: Tensor, mask: Tensor, num_classes: int, min_pixels: int = 12) -> Tensor:
    """Mean intensity of each class in each slice, and whether the slice has that class.

    Args:
        image: `b y x` in [-1, 1].
        mask: `b y x` integer classes.
        num_classes: background not counted.
        min_pixels: fewer pixels of a class do not count.

    Returns:
        `b 2 k` float32: means (0 where absent), and 1 or 0.
    """
    one_hot = F.one_hot(mask.long(), num_classes + 1)[..., 1:].float()
    count = one_hot.sum(dim=(1, 2))
    total = (one_hot * image.float()[..., None]).sum(dim=(1, 2))
    present = (count >= min_pixels).float()
    return torch.stack([total / count.clamp(min=1.0) * present, present], dim=1)


def paint_mask(mask: Tensor, appearance: Tensor, preset: Preset) -> Tensor:
    """Class fractions weighted with the informed slice's class means, and with their presence.

    Args:
        mask: `b (k s) h w` of `one_hot_fractions`.
        appearance: `b 2 k`.
        preset: tells the sub-pixels.

    Returns:
        `b (2 s) h w`: painted intensities, then known fractions; s = sub-pixels squared.
    """
    folded = preset.denoiser.mask_subpixels**2
    fractions = rearrange((mask + 1.0) / 2.0, "b (k s) h w -> b k s h w", s=folded)
    painted = torch.einsum("bkshw,bik->bishw", fractions, appearance.to(fractions.dtype))
    return rearrange(painted, "b i s h w -> b (i s) h w")
