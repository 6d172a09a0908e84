"""How conditions become channels beside the noisy latents; private to the denoiser.

    x_t | mask | informed | known flag | painted mask

The order is that of trained weights. Which of these exist, and which part of the network reads
them, says `DenoiserSpec`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.conditions import Conditions
from models.mask_encoding import paint_mask
from models.presets import Preset


def pack_channels(conditions: Conditions, appearance: Tensor, preset: Preset) -> Tensor:
    """The channels behind the noisy latents: equal for all steps of a window.

    Args:
        conditions: of m slices.
        appearance: `m 2 k`, theirs, normalised.
        preset: tells which channels exist.

    Returns:
        `m f h w`. An informed slice that is seen by attention alone is not among them.
    """
    spec, informed = preset.denoiser, conditions.informed
    parts = [conditions.mask.to(informed.dtype)]
    if spec.conditioning != "image_attention":
        parts.append(informed)
    if spec.known_slice_input:
        flag = conditions.known.to(informed.dtype)[:, None, None, None]
        parts.append(flag.expand(-1, 1, *informed.shape[-2:]))
    if spec.class_intensity_input:
        parts.append(paint_mask(conditions.mask, appearance, preset).to(informed.dtype))
    return torch.cat(parts, dim=1)


def fade_noisy(x_t: Tensor, known: Tensor, alpha: Tensor, preset: Preset) -> Tensor:
    """Noisy latents multiplied by their signal amplitude, where the preset says so.

    Args:
        x_t: `m c h w`, clean where `known`.
        known: `m` bool.
        alpha: `m` signal amplitudes.
        preset: tells whether.
    """
    if not preset.denoiser.fade_noisy_input:
        return x_t
    alpha = alpha.to(x_t.device)
    amplitude = torch.where(known, torch.ones_like(alpha), alpha)
    return x_t * amplitude.to(x_t.dtype)[:, None, None, None]
