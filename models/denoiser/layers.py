"""Building blocks of the denoiser: 2D residual and attention blocks with their volumetric layers.

A batch of windows travels as `(b n) c h w`; volumetric layers see `(b h w) c n` (section 3.1 of the
paper) and are identity at birth, so that stage 2 starts exactly where stage 1 ended.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.denoiser.attention import attend, attend_plainly


def sinusoid(position: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of `b` scalars -> `b width` (Vaswani et al., arXiv:1706.03762)."""
    half = width // 2
    rates = torch.exp(-math.log(max_period) * torch.arange(half, device=position.device) / half)
    angles = position.float()[:, None] * rates[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with up to 32 groups, at least 4 channels each."""
    groups = max(g for g in range(1, 33) if channels % g == 0 and channels // g >= 4)
    return nn.GroupNorm(groups, channels)


class SliceConv(nn.Module):
    """Convolution over slices (kernel 3) that starts as the identity.

    Three forms of the same sum: the paper's Rearrange to `(b h w) c n` with a 1D convolution
    (`plain`), a (3, 1, 1) convolution on `b c n h w`, and one matrix product for each of the three
    taps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.plain = False
        self.taps: Tensor | None = None
        self.weight = nn.Parameter(torch.zeros(channels, channels, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.dirac_(self.weight)

    def forward(self, x: Tensor, num_slices: int) -> Tensor:
        """`(b n) c h w` -> same shape, mixed along n."""
        if self.plain:
            return _slice_conv_1d(x, self.weight, self.bias, num_slices)
        if self.taps is not None:
            return _slice_conv_products(x, self.taps, self.bias, num_slices)
        return _slice_conv_3d(x, self.weight, self.bias, num_slices)


def _slice_conv_1d(x: Tensor, weight: Tensor, bias: Tensor, num_slices: int) -> Tensor:
    """The paper's form: two copies of the activations."""
    h, w = x.shape[-2:]
    lines = rearrange(x, "(b n) c h w -> (b h w) c n", n=num_slices)
    mixed = F.conv1d(lines, weight, bias, padding=1)
    return rearrange(mixed, "(b h w) c n -> (b n) c h w", h=h, w=w)


def _slice_conv_3d(x: Tensor, weight: Tensor, bias: Tensor, num_slices: int) -> Tensor:
    """No copy in channels-last memory; trains."""
    volume = rearrange(x, "(b n) c h w -> b c n h w", n=num_slices)
    mixed = F.conv3d(volume, weight[..., None, None], bias, padding=(1, 0, 0))
    return rearrange(mixed, "b c n h w -> (b n) c h w")


def _slice_conv_products(x: Tensor, taps: Tensor, bias: Tensor, num_slices: int) -> Tensor:
    """Sum of three products of `b (n h w) c` with shifted slices; `taps` are `3 c_in c_out`."""
    channels, (h, w) = x.shape[1], x.shape[-2:]
    rows = num_slices * h * w
    tokens = x.permute(0, 2, 3, 1).reshape(-1, rows, channels)
    before, here, after = taps.to(x.dtype)
    result = torch.empty_like(tokens)
    shift = h * w
    for window, mixed in zip(tokens, result, strict=True):
        torch.addmm(bias.to(x.dtype), window, here, out=mixed)
        mixed[shift:].addmm_(window[:-shift], before)
        mixed[:-shift].addmm_(window[shift:], after)
    return result.reshape(-1, h, w, channels).permute(0, 3, 1, 2)


class PseudoConv(nn.Module):
    """2D convolution followed by a slice convolution."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.plane = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2)
        self.slices = SliceConv(c_out)

    def forward(self, x: Tensor, num_slices: int | None) -> Tensor:
        """`(b n) c h w`; `num_slices` None leaves the volumetric layer out (stage 1)."""
        x = self.plane(x)
        return torch.as_tensor(x if num_slices is None else self.slices(x, num_slices))


class Attention(nn.Module):
    """Self-attention over tokens `b t c`, pre-normalised, added to its input."""

    def __init__(self, channels: int, head_width: int, *, zero_output: bool) -> None:
        super().__init__()
        self.plain = False
        self.heads = channels // head_width
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        if zero_output:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, position: Tensor | None = None) -> Tensor:
        """`position` (`t c`) is added before the projections only."""
        normed = self.norm(tokens)
        if position is not None:
            normed = normed + position
        q, k, v = rearrange(
            self.qkv(normed), "b t (three heads c) -> three b t heads c", three=3, heads=self.heads
        )
        mixed = (attend_plainly if self.plain else attend)(q, k, v)
        mixed = rearrange(mixed, "b t heads c -> b t (heads c)")
        return torch.add(tokens, self.out(mixed))


class PseudoAttention(nn.Module):
    """Spatial attention with a slice attention beside it (zero at birth)."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.plane = Attention(channels, head_width, zero_output=False)
        self.slices = Attention(channels, head_width, zero_output=True)

    def forward(self, x: Tensor, num_slices: int | None) -> Tensor:
        """`(b n) c h w` -> same shape; `num_slices` None leaves the slice attention out."""
        h, w = x.shape[-2:]
        x = rearrange(x, "bn c h w -> bn (h w) c")
        x = self.plane(x)
        if num_slices is not None:
            x = rearrange(x, "(b n) hw c -> (b hw) n c", n=num_slices)
            place = sinusoid(torch.arange(num_slices, device=x.device), x.shape[-1], 100.0)
            x = self.slices(x, place.to(x.dtype))
            x = rearrange(x, "(b hw) n c -> (b n) hw c", hw=h * w)
        return rearrange(x, "bn (h w) c -> bn c h w", h=h, w=w)


class ResBlock(nn.Module):
    """GroupNorm-SiLU-conv twice with the embedding between, and a skip."""

    def __init__(self, c_in: int, c_out: int, embedding_width: int) -> None:
        super().__init__()
        self.norm_in = group_norm(c_in)
        self.conv_in = PseudoConv(c_in, c_out)
        self.embed = nn.Linear(embedding_width, c_out)
        self.norm_out = group_norm(c_out)
        self.conv_out = PseudoConv(c_out, c_out)
        nn.init.zeros_(self.conv_out.plane.weight)
        assert self.conv_out.plane.bias is not None
        nn.init.zeros_(self.conv_out.plane.bias)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, num_slices: int | None) -> Tensor:
        """`x` is `(b n) c h w`, `embedding` is `(b n) e`."""
        y = self.conv_in(F.silu(self.norm_in(x)), num_slices)
        y = y + self.embed(F.silu(embedding))[:, :, None, None].to(y.dtype)
        y = self.conv_out(F.silu(self.norm_out(y)), num_slices)
        return torch.add(self.skip(x), y)


class Downsample(nn.Module):
    """Halve height and width with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = PseudoConv(channels, channels, stride=2)

    def forward(self, x: Tensor, num_slices: int | None) -> Tensor:
        """`(b n) c h w` -> `(b n) c h/2 w/2`."""
        return torch.as_tensor(self.conv(x, num_slices))


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = PseudoConv(channels, channels)

    def forward(self, x: Tensor, num_slices: int | None) -> Tensor:
        """`(b n) c h w` -> `(b n) c 2h 2w`."""
        return torch.as_tensor(self.conv(F.interpolate(x, scale_factor=2.0), num_slices))


def set_plain(model: nn.Module, plain: bool) -> None:
    """Switch a network and its layers to the paper's plain forms, or back; same numbers."""
    for module in model.modules():
        if isinstance(getattr(module, "plain", None), bool):
            setattr(module, "plain", plain)  # noqa: B010  (nn.Module types its attributes)


def freeze_for_cpu(model: nn.Module) -> None:
    """Lay slice convolutions out as matrix products; the weights must not change afterwards."""
    for module in model.modules():
        if isinstance(module, SliceConv):
            module.taps = module.weight.detach().permute(2, 1, 0).contiguous()
