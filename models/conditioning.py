"""The conditions as channels stacked on the noisy latents, and how they are dropped for guidance.

Every conditioning of models/denoiser.py starts from this one stack. Knows tensors and presets;
encodings that need the autoencoder get it from the caller.
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
    appearance: Tensor | None,
    preset: Preset,
) -> Tensor:
    """Stack the denoiser's input channels.

    Args:
        x_t: `(b n) c h w` noisy latents (clean ones where `known`).
        mask: `(b n) k h w` condition channels of `encode_mask`.
        informed: `(b n) c h w` latent of the informed slice, repeated over the window.
        known: `(b n)` bool; used when the preset has a known-slice input.
        appearance: `(b n) 2 k`, normalised, used when the preset paints masks; None
            says that the informed slice's mask is not known.
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
    if preset.denoiser.class_intensity_input:
        parts.append(paint_mask(mask, appearance, preset).to(x_t.dtype))
    return torch.cat(parts, dim=1)


def informed_channels(stacked: Tensor, preset: Preset, num_classes: int) -> Tensor:
    """The informed slice's latents inside what `concatenate` stacked, `(b n) c h w`."""
    latent = preset.autoencoder.latent_channels
    start = latent + preset.mask_channels(num_classes)
    return stacked[:, start : start + latent]


def entry_channels(stacked: Tensor, preset: Preset, num_classes: int) -> Tensor:
    """The part of the stack that enters the main branch (see `DenoiserSpec.conditioning`)."""
    latent = preset.autoencoder.latent_channels
    if preset.denoiser.conditioning == "controlnet":
        return stacked[:, :latent]
    if preset.denoiser.conditioning == "concatenate":
        return stacked
    start = latent + preset.mask_channels(num_classes)
    return torch.cat([stacked[:, :start], stacked[:, start + latent :]], dim=1)


def drop_conditions(
    stacked: Tensor,
    drop: Tensor,
    preset: Preset,
    num_classes: int,
    *,
    mask: bool = True,
    informed: bool = True,
) -> Tensor:
    """Blank conditions of chosen items, for condition dropout and classifier-free guidance.

    The null is 0 in every blanked channel. For latents (`grey_vae`, the informed slice) that is
    the mean latent; for `one_hot` it is "half of every class", which no mask of three classes or
    more has, so that the network can tell "not given" from "empty" (-1); for painted channels
    "no class known". Noisy latents and the known-slice flag stay.

    What does not travel in the stack (`image_tokens`, `appearance`) is dropped by `blank`.

    Args:
        stacked: `(b n) c h w` of `concatenate`.
        drop: `(b n)` bool.
        preset: tells the channels.
        num_classes: classes, background not counted.
        mask: blank the mask; painted channels go with either.
        informed: blank the informed slice.

    Raises:
        ValueError: channels or length do not fit.
    """
    expected = preset.input_channels(num_classes)
    if stacked.shape[1] != expected:
        raise ValueError(f"stack of {stacked.shape[1]} channels, but the preset has {expected}")
    keep = torch.ones(expected, dtype=torch.bool, device=stacked.device)
    latent, num_mask = preset.autoencoder.latent_channels, preset.mask_channels(num_classes)
    if mask:
        keep[latent : latent + num_mask] = False
    if informed:
        keep[latent + num_mask : 2 * latent + num_mask] = False
    if mask or informed:
        keep[2 * latent + num_mask + int(preset.denoiser.known_slice_input) :] = False
    _check_choice(stacked, drop)
    chosen = drop.to(stacked.device)[:, None] & ~keep
    return stacked.masked_fill(chosen[:, :, None, None], 0.0)


def blank(values: Tensor, drop: Tensor) -> Tensor:
    """Zeros in place of the chosen items of `b ...`: the null of `image_tokens` and `appearance`.

    Raises:
        ValueError: `drop` is not `b` bool.
    """
    _check_choice(values, drop)
    shape = (-1, *(1,) * (values.ndim - 1))
    return values.masked_fill(drop.to(values.device).reshape(shape), 0.0)


def guided(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Eq. 6, arXiv:2207.12598, with scale = 1 + w).

    Args:
        cond: prediction with conditions.
        uncond: prediction with dropped ones, same shape.
        scale: 1 is `cond`, 0 is `uncond`, more pushes towards the conditions.
    """
    return uncond + scale * (cond - uncond)


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


def paint_mask(mask: Tensor, appearance: Tensor | None, preset: Preset) -> Tensor:
    """Class fractions weighted with the informed slice's class means, and with their presence.

    Args:
        mask: `b (k s) h w` of `one_hot_fractions`.
        appearance: `b 2 k`, or None for "no class known".
        preset: tells the sub-pixels.

    Returns:
        `b (2 s) h w`: painted intensities, then known fractions; s = sub-pixels squared.
    """
    fractions = rearrange((mask + 1.0) / 2.0, "b (k s) h w -> b k s h w", s=_folded(preset))
    if appearance is None:
        appearance = torch.zeros(len(mask), 2, fractions.shape[1], device=mask.device)
    painted = torch.einsum("bkshw,bik->bishw", fractions, appearance.to(fractions.dtype))
    return rearrange(painted, "b i s h w -> b (i s) h w")


def _folded(preset: Preset) -> int:
    return preset.denoiser.mask_subpixels**2


def _check_choice(values: Tensor, drop: Tensor) -> None:
    if drop.dtype != torch.bool or drop.shape != values.shape[:1]:
        raise ValueError(
            f"drop must be {len(values)} bool values, one an item; it is {drop.dtype} of "
            f"{tuple(drop.shape)}"
        )
