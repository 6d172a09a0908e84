"""Convolutions on channels-last activations that leave their bias to whoever reads them next.

cuDNN adds no bias: torch adds it in a pass of its own, which costs a fifth of the convolution. Here
a convolution returns its result without bias, and the bias as a table `n c` (slice of the window,
channel) for the norm or sum that follows. Knows nothing of blocks.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.cuda_layout.forms import FastForms
from models.cuda_layout.norm import add, lanes_of
from models.denoiser.layers import PseudoConv, SliceConv

_CHANNELS = 8  # tensor cores read channels in groups of 8; fewer are filled up with zeros
_ROWS = 32
# For K[k] of the transposed form, which taps of the 3-tap kernel it sums.
_TRANSPOSED = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))
# For both phases, which taps reach the first and the second low-resolution neighbour.
_PHASES = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


class FastConv(nn.Module):
    """A 2D convolution and, where there is one, the slice convolution behind it.

    Args:
        plane: the 2D convolution.
        slices: the slice convolution, or None.
        dtype: of activations.
        forms: which forms.
        window: slices of the longest window whose table is made beforehand.
        upsampled: whether nearest-neighbour upsampling comes before the convolution.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        plane: nn.Conv2d,
        slices: SliceConv | None,
        dtype: torch.dtype,
        forms: FastForms,
        window: int = 1,
        *,
        upsampled: bool = False,
    ) -> None:
        super().__init__()
        assert plane.bias is not None
        self.stride, self.padding = plane.stride, plane.padding
        self.forms, self.upsample = forms, forms.upsample if upsampled else None
        weight = _arranged(plane.weight.detach().float(), self.upsample)
        self.c_in, self.c_out = plane.in_channels, plane.out_channels
        self.register_buffer("weight", _filled(weight, self.upsample).to(dtype))
        self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.register_buffer("bias", plane.bias.detach().float()[None])
        self.slices = None
        if slices is not None:
            self.slices = FastSliceConv(slices, plane.bias.detach(), dtype, forms, window)

    def forward(self, x: Tensor, num_slices: int | None = None) -> tuple[Tensor, Tensor | None]:
        """`(b n) c h w` -> the same without bias, and the bias `n c` float32 that is left to add.

        `num_slices` None leaves the slice convolution out.
        """
        slices = None if num_slices is None else self.slices
        x, bias = self._plane(x, adds_bias=slices is None)
        if slices is not None and num_slices is not None:
            x, bias = slices(x, num_slices), slices.table(num_slices)
        return x[:, : self.c_out], bias

    def whole(self, x: Tensor, num_slices: int | None = None) -> Tensor:
        """The same with its bias."""
        y, table = self(x, num_slices)
        return y if table is None else add(y, None, table, self.forms)

    def _plane(self, x: Tensor, *, adds_bias: bool) -> tuple[Tensor, Tensor | None]:
        """The 2D convolution, and the bias that is left; channels may be filled up."""
        if self.c_in % _CHANNELS:
            x = F.pad(x, (0, 0, 0, 0, 0, -self.c_in % _CHANNELS))
            x = x.contiguous(memory_format=torch.channels_last)
        if self.upsample is None:
            return F.conv2d(x, self.weight, None, self.stride, self.padding), self.bias
        if self.upsample == "plain":
            return F.conv2d(F.interpolate(x, scale_factor=2.0), self.weight, padding=1), self.bias
        if self.upsample == "transposed":
            return F.conv_transpose2d(x, self.weight, stride=2, padding=1), self.bias
        phases = F.conv2d(x, self.weight, padding=1)
        return interleave(phases, self.bias if adds_bias else None, self.forms), None


class FastSliceConv(nn.Module):
    """`SliceConv` with the bias of the 2D convolution before it.

    That bias passes through the slice convolution, whose first and last slice lack a neighbour: so
    it becomes a table by slice.
    """

    weight: Tensor
    taps: Tensor
    bias: Tensor
    tables: Tensor

    def __init__(
        self, source: SliceConv, before: Tensor, dtype: torch.dtype, forms: FastForms, window: int
    ) -> None:
        super().__init__()
        self.form, self.window = forms.slice_conv, window
        weight = source.weight.detach().float()
        filling = -len(weight) % _CHANNELS
        filled = F.pad(weight, (0, 0, 0, filling, 0, filling))
        if self.form == "plane":
            laid = filled[..., None].contiguous(memory_format=torch.channels_last)
        else:
            laid = filled[..., None, None].contiguous(memory_format=torch.channels_last_3d)
        self.register_buffer("weight", laid.to(dtype))
        self.register_buffer("taps", torch.einsum("oik,i->ko", weight, before.float()))
        self.register_buffer("bias", source.bias.detach().float())
        tables = [self._table(n) for n in range(1, window + 1)]
        self.register_buffer("tables", torch.cat(tables))

    def forward(self, x: Tensor, num_slices: int) -> Tensor:
        """`(b n) c h w` -> same shape, mixed along n, without bias."""
        h, w = x.shape[-2:]
        if self.form == "plane":
            image = rearrange(x, "(b n) c h w -> b c n (h w)", n=num_slices)
            mixed = F.conv2d(image, self.weight, padding=(1, 0))
            return rearrange(mixed, "b c n (h w) -> (b n) c h w", h=h, w=w)
        volume = rearrange(x, "(b n) c h w -> b c n h w", n=num_slices)
        mixed = F.conv3d(volume, self.weight, padding=(1, 0, 0))
        return rearrange(mixed, "b c n h w -> (b n) c h w")

    def table(self, num_slices: int) -> Tensor:
        """`n c` float32: the biases of both convolutions in a window of n slices."""
        if num_slices > self.window:
            return self._table(num_slices)
        first = num_slices * (num_slices - 1) // 2
        return self.tables[first : first + num_slices]

    def _table(self, num_slices: int) -> Tensor:
        earlier, here, later = self.taps.unbind()
        table = (self.bias + here).repeat(num_slices, 1)
        table[1:] += earlier
        table[:-1] += later
        return table


def interleave(phases: Tensor, bias: Tensor | None, forms: FastForms) -> Tensor:
    """Phases `m (4 c) h+1 w+1` of an upsampled convolution -> `m c 2h 2w`, plus `1 c` bias."""
    m, wide, tall, broad = phases.shape
    c, h, w = wide // 4, tall - 1, broad - 1
    if forms.norm == "triton":
        from models.cuda_layout.kernels.norms import interleave_kernel

        phases = phases.contiguous(memory_format=torch.channels_last)
        out, lanes = phases.new_empty((m, 2 * h, 2 * w, c)), lanes_of(c)
        grid = (-(-4 * h * w // _ROWS), m, -(-c // lanes))
        interleave_kernel[grid](
            phases, phases if bias is None else bias, out, h, w, c,
            HAS_BIAS=bias is not None, ROWS=_ROWS, LANES=lanes,
        )  # fmt: skip
        return out.permute(0, 3, 1, 2)
    out = phases.new_empty((m, h, 2, w, 2, c))
    by_phase = rearrange(phases, "m (a b c) h w -> a b m h w c", a=2, b=2)
    for a in range(2):
        for b in range(2):
            out[:, :, a, :, b] = by_phase[a, b, :, a : a + h, b : b + w]
    whole = rearrange(out, "m h a w b c -> m c (h a) (w b)")
    return whole if bias is None else add(whole, None, bias, forms)


def fast_pseudo_conv(
    source: PseudoConv,
    dtype: torch.dtype,
    forms: FastForms,
    window: int,
    *,
    upsampled: bool = False,
) -> FastConv:
    """A `PseudoConv`, with or without slice convolution, from its weights."""
    slices = getattr(source, "slices", None)
    return FastConv(source.plane, slices, dtype, forms, window, upsampled=upsampled)


def _arranged(weight: Tensor, upsample: str | None) -> Tensor:
    """`o i 3 3` -> the kernel of the chosen form of upsampling."""
    if upsample == "transposed":
        sums = weight.new_tensor(_TRANSPOSED)
        return torch.einsum("oiuv,ku,lv->iokl", weight, sums, sums)
    if upsample == "phases":
        sums = weight.new_tensor(_PHASES)
        by_phase = torch.einsum("oiuv,aku,blv->aboikl", weight, sums, sums)
        return by_phase.flatten(0, 2)
    return weight


def _filled(weight: Tensor, upsample: str | None) -> Tensor:
    """Channels filled up to what tensor cores read."""
    if upsample is not None:
        return weight
    return F.pad(weight, (0, 0, 0, 0, 0, -weight.shape[1] % _CHANNELS, 0, -len(weight) % _CHANNELS))
