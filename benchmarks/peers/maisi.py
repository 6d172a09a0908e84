"""NVIDIA MAISI's networks from MONAI with random weights: rectified flow of 512 x 512 x 128.

Widths, levels and the sliding-window decoder are those of its published configuration
(Project-MONAI/tutorials, generation/maisi, `config_maisi3d-rflow.json`; arXiv:2409.11169 for the
model): 30 steps, U-Net and ControlNet evaluated at each, half precision by autocast.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from machine import synchronize


@dataclass(frozen=True)
class MaisiShape:
    """Sizes of the networks and of the volume.

    Attributes:
        latent: edge (y, x, z) of the latents.
        channels: of the U-Net's levels.
        decoder: channels of the autoencoder's levels; each level but the first halves the edge.
        hint: channels of the ControlNet's mask embedding.
        heads: width of an attention head.
        groups: of the autoencoder's norms.
        window: edge of the decoder's sliding window, in latents.
        overlap: of those windows.
        splits: parts that the decoder's convolutions are computed in.
        steps: of rectified flow.
    """

    latent: tuple[int, int, int]
    channels: tuple[int, ...]
    decoder: tuple[int, ...]
    hint: tuple[int, ...]
    heads: int
    groups: int
    window: tuple[int, int, int]
    overlap: float
    splits: int
    steps: int

    @property
    def factor(self) -> int:
        """Voxels a latent along each axis."""
        return int(2 ** (len(self.decoder) - 1))

    @property
    def num_slices(self) -> int:
        """Of the finished volume."""
        return self.latent[2] * self.factor


FULL = MaisiShape(
    (128, 128, 32), (64, 128, 256, 512), (64, 128, 256), (8, 32, 64), 32, 32, (80, 80, 32), 0.4, 4,
    30,
)  # fmt: skip
SMALL = MaisiShape((8, 8, 8), (32, 32), (32, 32, 32), (8, 8, 8), 32, 8, (8, 8, 8), 0.4, 1, 2)
_CLASSES, _MASK_BITS = 128, 8


def measure_maisi(shape: MaisiShape, device: str, repeats: int) -> dict[str, Any]:
    """Seconds of a step and of the decoder, and what follows for a volume.

    Args:
        shape: sizes.
        device: "cpu" or "cuda".
        repeats: timed evaluations, after two that warm up.
    """
    torch.manual_seed(0)
    with torch.inference_mode():
        step_s, params = _step_s(shape, device, repeats)
        decode_s = _decode_s(shape, device)
    total = shape.steps * step_s + decode_s
    return {
        "step_s": round(step_s, 4),
        "steps": shape.steps,
        "denoise_s": round(shape.steps * step_s, 3),
        "decode_s": round(decode_s, 3),
        "s_per_volume": round(total, 3),
        "num_slices": shape.num_slices,
        "ms_a_slice": round(1e3 * total / shape.num_slices, 3),
        "ms_a_slice_and_evaluation": round(1e3 * step_s / shape.num_slices, 4),
        "params_m": params,
        "memory_mb": _memory_mb(device),
    }


def _step_s(shape: MaisiShape, device: str, repeats: int) -> tuple[float, float]:
    """Of U-Net and ControlNet together, and their 10^6 parameters."""
    with torch.device(device):
        unet, control = _networks(shape, device)
        x = torch.randn(1, 4, *shape.latent)
        mask = torch.rand(1, _MASK_BITS, *(shape.factor * edge for edge in shape.latent))
        kind, spacing = torch.ones(1, dtype=torch.long), torch.ones(1, 3)
        t = torch.tensor([500.0])

    def step() -> Tensor:
        with _half(device):
            down, middle = control(x=x, timesteps=t, controlnet_cond=mask, class_labels=kind)
            made: Tensor = unet(
                x=x,
                timesteps=t,
                spacing_tensor=spacing,
                class_labels=kind,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            )
        return made

    for _ in range(2):
        step()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    synchronize(device)
    params = sum(p.numel() for net in (unet, control) for p in net.parameters()) / 1e6
    return (time.perf_counter() - started) / repeats, round(params, 1)


def _networks(shape: MaisiShape, device: str) -> tuple[nn.Module, nn.Module]:
    from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
    from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import (
        DiffusionModelUNetMaisi,
    )

    levels = len(shape.channels)
    attention = [level >= levels // 2 for level in range(levels)]
    common: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": 4,
        "num_channels": list(shape.channels),
        "attention_levels": attention,
        "num_head_channels": [shape.heads if attends else 0 for attends in attention],
        "num_res_blocks": 2,
        "use_flash_attention": device == "cuda",
        "num_class_embeds": _CLASSES,
        "resblock_updown": True,
        "norm_num_groups": min(32, shape.channels[0]),
    }
    unet = DiffusionModelUNetMaisi(
        out_channels=4,
        include_top_region_index_input=False,
        include_bottom_region_index_input=False,
        include_spacing_input=True,
        **common,
    )
    control = ControlNetMaisi(
        conditioning_embedding_in_channels=_MASK_BITS,
        conditioning_embedding_num_channels=list(shape.hint),
        **common,
    )
    return unet.to(device).eval(), control.to(device).eval()


def _decode_s(shape: MaisiShape, device: str) -> float:
    """Of the sliding-window decoder, whose result goes to the CPU's memory; the second time."""
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
    from monai.inferers.inferer import SlidingWindowInferer

    levels = len(shape.decoder)
    net = AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        num_channels=list(shape.decoder),
        num_res_blocks=[2] * levels,
        norm_num_groups=shape.groups,
        norm_eps=1e-6,
        attention_levels=[False] * levels,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
        use_checkpointing=False,
        use_convtranspose=False,
        norm_float16=device == "cuda",
        num_splits=shape.splits,
        dim_split=1,
    )
    net = net.to(device).eval()
    windows = SlidingWindowInferer(
        roi_size=list(shape.window),
        sw_batch_size=1,
        mode="gaussian",
        overlap=shape.overlap,
        sw_device=device,
        device=torch.device("cpu"),
        progress=False,
    )
    latents = torch.randn(1, 4, *shape.latent, device=device)
    seconds = 0.0
    for _ in range(2):
        synchronize(device)
        started = time.perf_counter()
        with _half(device):
            windows(network=net.decode_stage_2_outputs, inputs=latents)
        synchronize(device)
        seconds = time.perf_counter() - started
    return seconds


def _half(device: str) -> torch.autocast:
    return torch.autocast(device, dtype=torch.float16, enabled=device == "cuda")


def _memory_mb(device: str) -> float | None:
    return round(torch.cuda.max_memory_allocated() / 1e6, 1) if device == "cuda" else None
