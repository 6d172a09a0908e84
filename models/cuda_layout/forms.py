"""Which form of each layer a laid-out network computes; a setting, so that one run compares them.

Every form gives the same numbers within rounding. Knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
    slice_conv: Literal["plane", "volume"] = "volume"
    upsample: Literal["phases", "transposed", "plain"] = "phases"
    wide_attention: Literal["fused", "products"] = "fused"


# What every card can do; the convolutions need no kernel of ours.
PLAIN_FORMS = FastForms(norm="plain", slice_attention="plain")
