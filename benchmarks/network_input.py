"""Input of a denoiser of any preset: zeros, for counting and timing."""

from __future__ import annotations

import torch
from torch import Tensor

from models.conditions import Conditions
from models.presets import Preset


def network_input(
    preset: Preset, num_classes: int, num_slices: int
) -> tuple[Tensor, Tensor, Tensor, Conditions]:
    """`x_t, t, alpha, conditions` of a number of slices, none of which is known."""
    edge, latent = preset.latent_px, preset.autoencoder.latent_channels
    x_t = torch.zeros(num_slices, latent, edge, edge)
    conditions = Conditions(
        mask=torch.zeros(num_slices, preset.mask_channels(num_classes), edge, edge),
        informed=torch.zeros_like(x_t),
        heights=torch.zeros(num_slices, 2),
        known=torch.zeros(num_slices, dtype=torch.bool),
        appearance=torch.zeros(num_slices, 2, num_classes),
    )
    return x_t, torch.zeros(num_slices), torch.ones(num_slices), conditions
