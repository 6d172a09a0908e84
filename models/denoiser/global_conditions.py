"""Encoders of conditions that enter beside the time embedding and so reach every voxel alike.

Each gives `b e` and is zero at birth. Knows nothing of the denoiser.
"""

from __future__ import annotations

from torch import nn


def style_encoder(latent_channels: int, base: int, width: int) -> nn.Module:
    """`b c h w` informed latents -> `b e`, zero at birth."""
    last = nn.Linear(2 * base, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Conv2d(latent_channels, base, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(base, 2 * base, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        last,
    )


def appearance_encoder(num_classes: int, width: int) -> nn.Module:
    """`b 2k` class means and presence -> `b e`, zero at birth."""
    last = nn.Linear(width // 2, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(2 * num_classes, width // 2), nn.SiLU(), last)
