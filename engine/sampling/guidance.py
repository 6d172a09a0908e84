"""Classifier-free guidance: the conditioned and the unconditioned network in one batch.

Guidance combines outputs of the network (arXiv:2207.12598). Whatever they are (eps, v, x_0, flow),
x_0 is affine in them at given x_t and noise level, and the weights of the combination add up to 1:
so this equals combining the two estimates of x_0. What is dropped, and by what it is replaced, is
what training does (models/conditioning.py): masks, informed slice and all that is made from them
go; noisy latents, heights and known-slice flags stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.conditioning import blank, drop_conditions, guided
from models.presets import Preset


@dataclass(frozen=True)
class NetworkInput:
    """What the denoiser is given for `b` windows of n slices each; `m = b n`.

    Attributes:
        stacked: `m c h w` of `conditioning.concatenate`.
        t: `m` timesteps.
        heights: `m 2`.
        appearance: `m 2 k`, normalised.
        tokens: `b t k` image tokens, where the preset takes them from outside.
    """

    stacked: Tensor
    t: Tensor
    heights: Tensor
    appearance: Tensor
    tokens: Tensor | None = None


def with_unconditioned(given: NetworkInput, preset: Preset, num_classes: int) -> NetworkInput:
    """All windows as they are, then all of them again without conditions; `2 m` slices."""
    everyone = torch.ones(len(given.stacked), dtype=torch.bool, device=given.stacked.device)
    stacked = drop_conditions(given.stacked, everyone, preset, num_classes)
    tokens = given.tokens
    if tokens is not None:
        tokens = torch.cat([tokens, torch.zeros_like(tokens)])
    return NetworkInput(
        torch.cat([given.stacked, stacked]),
        torch.cat([given.t, given.t]),
        torch.cat([given.heights, given.heights]),
        torch.cat([given.appearance, blank(given.appearance, everyone)]),
        tokens,
    )


def combine(output: Tensor, scale: float) -> Tensor:
    """Output `2 m c h w` for `with_unconditioned`'s input -> the guided one, `m c h w`."""
    conditioned, unconditioned = output.chunk(2)
    return guided(conditioned, unconditioned, scale)
