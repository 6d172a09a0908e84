"""The position model: (x_t, t, height) -> prediction for one slice (the paper's IG, Eq. 2).

A 2D latent diffusion model that makes informed slices: the denoiser's U-Net without mask, informed
slice and volumetric layers, whose cross-attention sees one token, the sinusoid of the normalised
height p. Knows nothing of schedules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.conditions import Conditions
from models.denoiser.layers import PseudoAttention, PseudoConv, sinusoid
from models.denoiser.unet import Denoiser
from models.presets import DenoiserSpec, PositionSpec, Preset

_NUM_HEIGHTS = 1000.0  # p is embedded like a timestep: 0 to 1000


class PositionModel(nn.Module):
    """U-Net with cross-attention to the height of the slice in its volume."""

    def __init__(self, preset: Preset) -> None:
        """Build the model of `preset.position`.

        Raises:
            ValueError: the preset has none.
        """
        super().__init__()
        if preset.position is None:
            raise ValueError(f"preset {preset.name} has no position model: give it a PositionSpec")
        self.preset, self.width = preset, preset.position.position_width
        unconditional = preset.model_copy(update={"denoiser": _denoiser_spec(preset.position)})
        self.net = Denoiser(unconditional, num_classes=0)
        _remove_volumetric_layers(self.net)

    def forward(self, x: Tensor, t: Tensor, p: Tensor) -> Tensor:
        """Predict eps, v, x_0 or flow, whatever the weights were trained for.

        Args:
            x: `b c h w` noisy latents.
            t: `b` timesteps, 0 to 999.
            p: `b` heights in [0, 1]: z / (num_slices - 1).

        Returns:
            `b c h w`.

        Raises:
            ValueError: not one height a slice.
        """
        if p.shape != (len(x),):
            raise ValueError(f"heights of shape {tuple(p.shape)}: give one for each of {len(x)}")
        size, nothing = len(x), torch.zeros_like(x)
        conditions = Conditions(
            mask=nothing[:, :0],
            informed=nothing,
            heights=p[:, None].expand(-1, 2),
            known=torch.zeros(size, dtype=torch.bool, device=x.device),
            appearance=x.new_zeros(size, 2, 0),
            tokens=sinusoid(_NUM_HEIGHTS * p, self.width)[:, None],
        )
        return torch.as_tensor(self.net(x, t, torch.ones_like(p), conditions)[0])


def _denoiser_spec(spec: PositionSpec) -> DenoiserSpec:
    return DenoiserSpec(
        base_channels=spec.base_channels,
        multipliers=spec.multipliers,
        num_res_blocks=spec.num_res_blocks,
        attention_px=spec.attention_px,
        head_width=spec.head_width,
        mask_encoding="one_hot",  # of no class: no channel
        conditioning="image_attention",
        image_token_width=spec.position_width,
    )


def _remove_volumetric_layers(net: nn.Module) -> None:
    """A model of single slices keeps no layer that mixes slices."""
    for module in net.modules():
        if isinstance(module, PseudoConv | PseudoAttention):
            del module.slices
