"""How pictures of a model in training are sampled and put together.

The only place of the room that calls the sampler.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from engine.sampling.config import SamplingConfig
from engine.sampling.networks.slices import sample_slices
from engine.sampling.sampler import Sampler, SampleRequest
from engine.training.examples.randomness import generator_for
from engine.volumes.volume import PreparedCase
from models.autoencoder import Autoencoder
from models.denoiser.position import PositionModel
from models.denoiser.unet import Denoiser
from models.image_encoder import ImageTower
from models.weights.folder import Manifest

NUM_SHOWN = 4
HEIGHTS = (0.2, 0.4, 0.6, 0.8)


def sample_window(
    manifest: Manifest,
    autoencoder: Autoencoder,
    net: Denoiser,
    case: PreparedCase,
    low: int,
    size: int,
    middle: int,
    sampling: SamplingConfig,
    tower: ImageTower | None = None,
) -> NDArray[np.float32]:
    """Slices `low` to `low + size` of a case from noise, `z y x` in [-1, 1].

    Args:
        manifest: of the weights.
        autoencoder: to decode.
        net: to denoise.
        case: gives the mask.
        low: first slice.
        size: number of slices.
        middle: z of the informed slice.
        sampling: solver and steps.
        tower: where `net` takes image tokens.
    """
    assert case.image is not None
    stop = low + size
    request = SampleRequest(
        sample_id=case.case_id,
        seed=0,
        mask=case.mask[low:stop],
        informed=case.image[middle],
        informed_mask=case.mask[middle],
        informed_position=(middle - low) / max(size - 1, 1),
    )
    return Sampler(manifest, autoencoder, net, sampling, tower=tower).sample(request).image


def sample_heights(
    manifest: Manifest,
    autoencoder: Autoencoder,
    net: PositionModel,
    heights: tuple[float, ...],
    seed: int,
) -> NDArray[np.float32]:
    """Slices of the position model at heights in [0, 1], `b y x` in [-1, 1], one noise for all."""
    edge, channels = manifest.preset.latent_px, manifest.preset.autoencoder.latent_channels
    noise = torch.randn((1, channels, edge, edge), generator=generator_for(seed, "heights"))
    return sample_slices(manifest, autoencoder, net, heights, noise)


def grid(rows: list[NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Rows `y x` in [-1, 1] below each other, as grey values."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1])), constant_values=-1.0) for r in rows]
    whole = np.nan_to_num(np.concatenate(padded), nan=-1.0)
    return ((np.clip(whole, -1.0, 1.0) + 1.0) * 127.5).round().astype(np.uint8)


def row(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Slices `z y x` beside each other."""
    return np.concatenate(list(planes), axis=1)
