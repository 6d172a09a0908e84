"""Which form of each layer a laid-out network computes; a setting, so that one run compares them.

Every form gives the same numbers within rounding. Knows no network.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import Literal

import torch

_OLDEST_FOR_TRITON = (8, 0)  # compute capability; Triton dropped Volta (7.0) in 2024


@dataclass(frozen=True)
class FastForms:
    """Forms of the layers.

    Attributes:
        norm: of group normalisation with SiLU, and of sums of activations. `triton`: own kernels
            on channels-last memory. `compiled`: torch.compile of the plain form. `plain`: torch's
            group normalisation, which converts to channels-first and back.
        slice_attention: `triton` reads queries, keys and values where the matrix product left
            them; `plain` transposes slices and positions and calls `attend`.
        slice_conv: `plane` is a 2D convolution of an image of n rows and h w columns, `volume` a 3D
            convolution.
        upsample: of nearest neighbour and a 3 x 3 convolution, which are four 2 x 2 convolutions at
            the lower resolution (4 of 9 products are left). `phases` makes them one convolution and
            interleaves its output, `transposed` is one transposed convolution, `plain` both steps.
        wide_attention: of the autoencoder's single head, too wide for flash kernels: `fused` is
            torch's attention, `products` two matrix products around a float32 softmax.
    """

    norm: Literal["triton", "compiled", "plain"] = "triton"
    slice_attention: Literal["triton", "plain"] = "triton"
    slice_conv: Literal["plane", "volume"] = "plane"
    upsample: Literal["phases", "transposed", "plain"] = "phases"
    wide_attention: Literal["fused", "products"] = "fused"


PLAIN_FORMS = FastForms("plain", "plain", "volume", "plain")


def best_forms(device: torch.device) -> FastForms:
    """The default on a device: kernels of our own where Triton compiles for it."""
    if device.type == "cuda" and has_triton(device):
        return FastForms()
    return replace(PLAIN_FORMS, slice_conv="plane")


def has_triton(device: torch.device) -> bool:
    """Whether Triton is installed and compiles for this GPU."""
    if importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= _OLDEST_FOR_TRITON
