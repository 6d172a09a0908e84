"""Latents in and out: diffusers' AutoencoderKL behind our conventions.

Images are `b 1 y x` in [-1, 1]; latents are `b c h w`, divided by the measured scale so that they
have unit standard deviation. Knows no data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from models.presets import AutoencoderSpec


@dataclass(frozen=True)
class LatentMoments:
    """Posterior of the autoencoder in scaled latents: `b c h w` each. Never kept as one draw."""

    mean: Tensor
    log_variance: Tensor

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """One sample of the posterior."""
        noise = torch.randn(
            self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.mean + noise * torch.exp(0.5 * self.log_variance)


class Coder(Protocol):
    """Another forward over the same weights, without the latent scale."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`b 1 y x` -> mean and log variance `b c h w` of raw latents."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents `b c h w` -> `b 1 y x`."""
        ...


class Autoencoder(nn.Module):
    """AutoencoderKL with a measured latent scale and offset.

    The scale is 1 / standard deviation of latents over the training data, measured by
    `set_statistics`; LDM's 0.18215 belongs to natural images and is never assumed.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.coder: Coder | None = None  # see models.cuda_layout.lay_out
        blocks = len(spec.block_channels)
        self.net = AutoencoderKL(
            in_channels=spec.image_channels,
            out_channels=spec.image_channels,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=spec.block_channels,
            layers_per_block=spec.num_layers,
            latent_channels=spec.latent_channels,
            norm_num_groups=spec.norm_groups,
            mid_block_add_attention=spec.mid_attention,
        )
        self.register_buffer("scale", torch.ones(spec.latent_channels))
        self.register_buffer("offset", torch.zeros(spec.latent_channels))

    def encode(self, images: Tensor) -> LatentMoments:
        """`b 1 y x` in [-1, 1] -> moments of scaled latents `b c h w`."""
        if self.coder is not None:
            mean, log_variance = self.coder.encode(images)
        else:
            grey = images.expand(-1, self.spec.image_channels, -1, -1)
            posterior = self.net.encode(grey).latent_dist
            mean, log_variance = posterior.mean, posterior.logvar
        scale, offset = self.scale[:, None, None], self.offset[:, None, None]
        return LatentMoments((mean - offset) * scale, log_variance + 2.0 * torch.log(scale))

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents `b c h w` -> images `b 1 y x` (not clipped)."""
        raw = latents / self.scale[:, None, None] + self.offset[:, None, None]
        if self.coder is not None:
            return self.coder.decode(raw)
        return torch.as_tensor(self.net.decode(raw).sample[:, :1])

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store per-channel mean and standard deviation (`c`) of unscaled latents."""
        self.offset.copy_(mean)
        self.scale.copy_(1.0 / std)
