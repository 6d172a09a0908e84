"""Arithmetic of the networks in their plain form, counted without computing anything.

Speed is told by this count whatever the engine really computes, so that work saved counts as speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser
from models.weights.folder import Manifest
from network_input import network_input


@dataclass(frozen=True)
class Arithmetic:
    """Multiplications and additions, each counted, in 10^12.

    Attributes:
        window_step: of one evaluation of the denoiser for a whole window.
        encode_slice: of one slice encoded.
        decode_slice: of one slice decoded.
        params: of the denoiser, in 10^6.
        encoded_mask: whether masks are encoded by the autoencoder, or only the informed slice.
    """

    window_step: float
    encode_slice: float
    decode_slice: float
    params: float
    encoded_mask: bool

    @classmethod
    def of(cls, manifest: Manifest) -> Arithmetic:
        """Of the networks that these weights are for."""
        preset, n = manifest.preset, manifest.preset.window

        def evaluate() -> None:
            denoiser = Denoiser(preset, manifest.num_classes)
            denoiser(*network_input(preset, manifest.num_classes, n), n)

        def encode() -> None:
            Autoencoder(preset.autoencoder).encode(
                torch.zeros(1, 1, preset.size_px, preset.size_px)
            )

        def decode() -> None:
            latent = torch.zeros(
                1, preset.autoencoder.latent_channels, preset.latent_px, preset.latent_px
            )
            Autoencoder(preset.autoencoder).decode(latent)

        with torch.device("meta"):
            params = sum(p.numel() for p in Denoiser(preset, manifest.num_classes).parameters())
        return cls(
            _tflop(evaluate),
            _tflop(encode),
            _tflop(decode),
            params / 1e6,
            preset.denoiser.mask_encoding == "grey_vae",
        )

    def encode(self, num_slices: int) -> float:
        """Of the conditions of a volume: its mask where it is encoded, and its informed slice."""
        return self.encode_slice * (1 + (num_slices if self.encoded_mask else 0))

    def denoise(self, window_steps: int) -> float:
        """Of so many evaluations of a whole window."""
        return self.window_step * window_steps

    def decode(self, num_slices: int) -> float:
        """Of a volume's slices."""
        return self.decode_slice * num_slices


def _tflop(work: Callable[[], None]) -> float:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops()) / 1e12
