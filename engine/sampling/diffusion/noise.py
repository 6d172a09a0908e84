"""Randomness that depends on nothing but the sample: hash(run seed, sample_id, slice, purpose).

Drawn on the CPU in float32, so that worker, batch, order and device make no difference. A slice has
its noise whatever window it is denoised in: two windows that share slices then start alike there,
and what the second makes continues what the first has made (docs/decisions, propagation).
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.seeds import noise_seed


def draw_noise(
    shape: tuple[int, ...],
    seed: int,
    sample_id: str,
    z: int,
    purpose: str,
    out: Tensor | None = None,
) -> Tensor:
    """Unit Gaussian of `shape` for slice z, float32 on the CPU; into `out` where it is given."""
    generator = torch.Generator().manual_seed(noise_seed(seed, sample_id, z, purpose))
    return torch.randn(shape, generator=generator, out=out)
