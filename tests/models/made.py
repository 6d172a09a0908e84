"""Random input of a denoiser, for tests of networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from models.conditions import Conditions
from models.denoiser.unet import Denoiser
from models.presets import Preset


@dataclass(frozen=True)
class Given:
    """What a denoiser is given for m slices, none of which is known."""

    x_t: Tensor
    t: Tensor
    alpha: Tensor
    conditions: Conditions

    def to(self, model: torch.nn.Module, num_slices: int | None = None) -> Tensor:
        """The model's prediction."""
        prediction, _ = model(self.x_t, self.t, self.alpha, self.conditions, num_slices)
        return torch.as_tensor(prediction)

    def but(self, **changes: Any) -> Given:
        """The same with other conditions."""
        return replace(self, conditions=replace(self.conditions, **changes))


def given(preset: Preset, num: int, num_classes: int, token_width: int = 24) -> Given:
    """Random latents and conditions, equal at every call."""
    generator = torch.Generator().manual_seed(1)
    edge, channels = preset.latent_px, preset.autoencoder.latent_channels

    def draw(*shape: int) -> Tensor:
        return torch.randn(num, *shape, generator=generator)

    takes_tokens = preset.denoiser.image_token_width is not None
    conditions = Conditions(
        mask=draw(preset.mask_channels(num_classes), edge, edge),
        informed=draw(channels, edge, edge),
        heights=torch.rand(num, 2, generator=generator),
        known=torch.zeros(num, dtype=torch.bool),
        appearance=torch.rand(num, 2, num_classes, generator=generator),
        tokens=draw(5, token_width) if takes_tokens else None,
    )
    t = torch.randint(0, 1000, (num,), generator=generator)
    return Given(draw(channels, edge, edge), t, torch.full((num,), 0.7), conditions)


def channels_seen(model: Denoiser, conditions: Conditions) -> Tensor:
    """What the denoiser stacks behind its noisy latents."""
    packed = model.pack(conditions).packed
    assert packed is not None
    return packed
