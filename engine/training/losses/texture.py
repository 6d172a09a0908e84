"""A texture loss for the autoencoder: fine detail must be as strong as in the real image.

What a pixel's noise was cannot be known from fewer numbers than pixels, so the squared error alone
makes tissue smooth. How strong the noise is around a pixel can be known: this loss compares that.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

_KERNEL_PX = 5
_EPSILON = 1e-4  # of the variance: 0.01 in [-1, 1] is no texture


def texture_loss(images: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference of the local strength of fine detail.

    Args:
        images: `b c y x` in [-1, 1].
        reference: the real ones, same shape.
    """
    return (fine_strength(images) - fine_strength(reference)).abs().mean()


def fine_strength(images: Tensor) -> Tensor:
    """Local standard deviation of what a 3 px mean leaves, `b c y-6 x-6`."""
    x = images.float()
    fine = x[..., 1:-1, 1:-1] - F.avg_pool2d(x, 3, stride=1)
    return (F.avg_pool2d(fine.square(), _KERNEL_PX, stride=1) + _EPSILON).sqrt()
