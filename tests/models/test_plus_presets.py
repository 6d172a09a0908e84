"""The presets beside the paper's: what they are meant to be cheaper in, and what they must hold."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser
from models.presets import PRESETS


def decoding_flops(name: str) -> int:
    preset = PRESETS[name]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        edge, channels = preset.latent_px, preset.autoencoder.latent_channels
        Autoencoder(preset.autoencoder).decode(torch.zeros(1, channels, edge, edge))
    return int(counter.get_total_flops())


def test_decoding_at_512_px_costs_a_twentieth_of_the_papers() -> None:
    assert 20 * decoding_flops("gem3d_plus_512") < decoding_flops("gem3d_512")


@pytest.mark.parametrize("edge", [128, 256, 512])
def test_latents_hold_more_numbers_than_the_papers_of_that_size(edge: int) -> None:
    preset = PRESETS[f"gem3d_plus_{edge}"]
    assert preset.size_px == edge
    share = preset.autoencoder.latent_channels / preset.autoencoder.factor**2
    assert share >= 4 * 4 / 64, "the paper's has 4 channels at an eighth of the edge"


def test_weights_of_the_small_one_fit_into_the_repository() -> None:
    with torch.device("meta"):
        denoiser = Denoiser(PRESETS["gem3d_plus_128"], 5)
    assert 2 * sum(p.numel() for p in denoiser.parameters()) < 16e6, "bytes in float16"
