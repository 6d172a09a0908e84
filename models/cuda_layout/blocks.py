"""Residual blocks and changes of resolution with fused norms; of the denoiser and the autoencoder.

    parts -> norm, SiLU -> convolution -> (bias, embedding) norm, SiLU -> convolution -> sum, biases

Seventeen passes over the activations where the plain block makes thirty-six. Knows no network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cuda_layout.convolutions import FastConv, fast_pseudo_conv
from models.cuda_layout.forms import FastForms
from models.cuda_layout.norm import FusedNorm, add
from models.denoiser.layers import Downsample, ResBlock, Upsample


class FastBlock(nn.Module):
    """Norm, SiLU, convolution twice, and a skip.

    Args:
        norms: the two norms.
        convs: the two convolutions.
        skip: 1 x 1 convolution of the skip, or None where channels stay.
        dtype: of activations.
        forms: which forms.
        columns: first and last column of the projected embeddings that belong to this block.
    """

    takes_parts = True  # a tuple stands for its concatenation
    skip: Tensor | None
    skip_bias: Tensor | None

    def __init__(
        self,
        norms: tuple[nn.GroupNorm, nn.GroupNorm],
        convs: tuple[FastConv, FastConv],
        skip: nn.Conv2d | None,
        dtype: torch.dtype,
        forms: FastForms,
        columns: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.forms, self.columns = forms, columns
        self.norm_in, self.norm_out = (FusedNorm(norm, forms) for norm in norms)
        self.conv_in, self.conv_out = convs
        weight = bias = None
        if skip is not None:
            assert skip.bias is not None
            weight = skip.weight.detach()[:, :, 0, 0].to(dtype)
            bias = skip.bias.detach().float()[None]
        self.register_buffer("skip", weight)
        self.register_buffer("skip_bias", bias)

    def forward(
        self,
        x: Tensor | tuple[Tensor, ...],
        embedding: Tensor | None = None,
        num_slices: int | None = None,
    ) -> Tensor:
        """`(b n) c h w` activations, or parts of them, and `(b n) e` projected embeddings."""
        parts = x if isinstance(x, tuple) else (x,)
        y, table = self.conv_in(self.norm_in(*parts), num_slices)
        rows = None
        if embedding is not None and self.columns is not None:
            rows = embedding[:, self.columns[0] : self.columns[1]]
        y, table = self.conv_out(self.norm_out(y, rows=rows, table=table), num_slices)
        if self.skip_bias is not None:
            table = table + self.skip_bias
        return add(self._skipped(parts), y, table, self.forms)

    def _skipped(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The skip without bias, as matrix products over rows of channels."""
        if self.skip is None:
            assert len(parts) == 1
            return parts[0]
        m, _, h, w = parts[0].shape
        total, first = None, 0
        for part in parts:
            rows = part.permute(0, 2, 3, 1).reshape(m * h * w, -1)
            weight = self.skip[:, first : first + rows.shape[1]].T
            total = rows @ weight if total is None else total.addmm_(rows, weight)
            first += rows.shape[1]
        assert total is not None
        return total.reshape(m, h, w, -1).permute(0, 3, 1, 2)


class FastResize(nn.Module):
    """`Downsample` or `Upsample` from the same weights."""

    def __init__(
        self, source: Downsample | Upsample, dtype: torch.dtype, forms: FastForms, window: int
    ) -> None:
        super().__init__()
        upsampled = isinstance(source, Upsample)
        self.conv = fast_pseudo_conv(source.conv, dtype, forms, window, upsampled=upsampled)

    def forward(self, x: Tensor, num_slices: int | None) -> Tensor:
        """`(b n) c h w` -> half or double height and width."""
        return self.conv.whole(x, num_slices)


class FastEntry(nn.Module):
    """The first or last `PseudoConv` of the denoiser from the same weights."""

    def __init__(self, conv: FastConv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, num_slices: int | None) -> Tensor:
        """`(b n) c h w` -> `(b n) c h w`."""
        return self.conv.whole(x, num_slices)


class Projections(nn.Module):
    """The embedding's projection to every residual block, as one float32 matrix product."""

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._layers: list[nn.Linear] = []

    def take(self, layer: nn.Linear) -> tuple[int, int]:
        """Add a block's projection; its first and last column."""
        first = sum(len(taken.weight) for taken in self._layers)
        self._layers.append(layer)
        return first, first + len(layer.weight)

    def close(self) -> None:
        """Join what was taken."""
        weights = [layer.weight.detach().float() for layer in self._layers]
        self.register_buffer("weight", torch.cat(weights))
        self.register_buffer("bias", torch.cat([v.bias.detach().float() for v in self._layers]))
        self._layers = []

    def forward(self, embedding: Tensor) -> Tensor:
        """`m e` float32 -> `m sum(c)`."""
        return F.linear(F.silu(embedding), self.weight, self.bias)


def fast_res_block(
    block: ResBlock, dtype: torch.dtype, forms: FastForms, window: int, projections: Projections
) -> FastBlock:
    """A `ResBlock` of the denoiser."""
    return FastBlock(
        (block.norm_in, block.norm_out),
        (
            fast_pseudo_conv(block.conv_in, dtype, forms, window),
            fast_pseudo_conv(block.conv_out, dtype, forms, window),
        ),
        block.skip if isinstance(block.skip, nn.Conv2d) else None,
        dtype,
        forms,
        projections.take(block.embed),
    )
