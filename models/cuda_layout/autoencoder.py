"""The encoder and decoder of diffusers' AutoencoderKL from its own weights, in a short forward.

diffusers owns weights, names and training. Here the same layers run with fused norms, channels-last
and without the passes that biases cost. One image channel is read and one is made: copies of a grey
channel become a sum of weights. Knows nothing of latents' scale.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.cuda_layout.blocks import FastBlock
from models.cuda_layout.convolutions import FastConv
from models.cuda_layout.forms import FastForms
from models.cuda_layout.norm import FusedNorm, add
from models.cuda_layout.rows import attend_by_products, attend_widely


class FastCoder(nn.Module):
    """Encoder and decoder.

    Args:
        net: diffusers' AutoencoderKL.
        dtype: of activations.
        forms: which forms.
    """

    def __init__(self, net: Any, dtype: torch.dtype, forms: FastForms) -> None:
        super().__init__()
        self.dtype = dtype
        self.quant, self.post_quant = net.quant_conv.float(), net.post_quant_conv.float()
        self.encoder = _Encoder(net.encoder, dtype, forms)
        self.decoder = _Decoder(net.decoder, dtype, forms)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`b 1 y x` -> mean and log variance `b c h w` of raw latents, float32."""
        moments = self.quant(self.encoder(self._working(images)).float())
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)  # as diffusers' DiagonalGaussianDistribution

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents `b c h w` -> `b 1 y x` float32."""
        return torch.as_tensor(
            self.decoder(self._working(self.post_quant(latents.float())))
        ).float()

    def _working(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, memory_format=torch.channels_last)


class _Encoder(nn.Module):
    def __init__(self, source: Any, dtype: torch.dtype, forms: FastForms) -> None:
        super().__init__()
        self.enter = FastConv(_of_grey(source.conv_in), None, dtype, forms)
        self.levels = nn.ModuleList(_Down(level, dtype, forms) for level in source.down_blocks)
        self.middle = _Middle(source.mid_block, dtype, forms)
        self.norm = FusedNorm(source.conv_norm_out, forms)
        self.leave = FastConv(source.conv_out, None, dtype, forms)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter.whole(x)
        for level in self.levels:
            x = level(x)
        return self.leave.whole(self.norm(self.middle(x)))


class _Decoder(nn.Module):
    def __init__(self, source: Any, dtype: torch.dtype, forms: FastForms) -> None:
        super().__init__()
        self.enter = FastConv(source.conv_in, None, dtype, forms)
        self.middle = _Middle(source.mid_block, dtype, forms)
        self.levels = nn.ModuleList(_Up(level, dtype, forms) for level in source.up_blocks)
        self.norm = FusedNorm(source.conv_norm_out, forms)
        self.leave = FastConv(_to_grey(source.conv_out), None, dtype, forms)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.enter.whole(x))
        for level in self.levels:
            x = level(x)
        return self.leave.whole(self.norm(x))


class _Down(nn.Module):
    """Residual blocks, then half the resolution; padded to the right and below alone."""

    def __init__(self, source: Any, dtype: torch.dtype, forms: FastForms) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(b, dtype, forms) for b in source.resnets)
        self.resize: FastConv | None = None
        if source.downsamplers is not None:
            self.resize = FastConv(source.downsamplers[0].conv, None, dtype, forms)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.resize is None else self.resize.whole(F.pad(x, (0, 1, 0, 1)))


class _Up(nn.Module):
    """Residual blocks, then double the resolution."""

    def __init__(self, source: Any, dtype: torch.dtype, forms: FastForms) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(b, dtype, forms) for b in source.resnets)
        self.resize: FastConv | None = None
        if source.upsamplers is not None:
            conv = source.upsamplers[0].conv
            self.resize = FastConv(conv, None, dtype, forms, upsampled=True)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.resize is None else self.resize.whole(x)


class _Middle(nn.Module):
    """Two residual blocks with attention between, where there is one."""

    def __init__(self, source: Any, dtype: torch.dtype, forms: FastForms) -> None:
        super().__init__()
        self.first, self.second = (_block(b, dtype, forms) for b in source.resnets)
        attention = source.attentions[0] if len(source.attentions) else None
        self.attention = None if attention is None else _WideAttention(attention, dtype, forms)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x if self.attention is None else self.attention(x)
        return torch.as_tensor(self.second(x))


class _WideAttention(nn.Module):
    """Spatial attention with one head as wide as the channels."""

    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    out_bias: Tensor

    def __init__(self, source: Any, dtype: torch.dtype, forms: FastForms) -> None:
        super().__init__()
        assert source.heads == 1
        self.forms = forms
        self.norm = FusedNorm(source.group_norm, forms, silu=False)
        parts = (source.to_q, source.to_k, source.to_v)
        keep = self.register_buffer
        keep("qkv", torch.cat([part.weight.detach() for part in parts]).to(dtype))
        keep("qkv_bias", torch.cat([part.bias.detach() for part in parts]).to(dtype))
        keep("out", source.to_out[0].weight.detach().to(dtype))
        keep("out_bias", source.to_out[0].bias.detach().float()[None])

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        q, k, v = F.linear(tokens, self.qkv, self.qkv_bias).chunk(3, dim=-1)
        by_products = self.forms.wide_attention == "products"
        attend = attend_by_products if by_products else attend_widely
        y = F.linear(attend(q, k, v), self.out)
        return add(x, rearrange(y, "m (h w) c -> m c h w", h=h, w=w), self.out_bias, self.forms)


def _block(source: Any, dtype: torch.dtype, forms: FastForms) -> FastBlock:
    convs = (source.conv1, source.conv2)
    first, second = (FastConv(conv, None, dtype, forms) for conv in convs)
    norms = (source.norm1, source.norm2)
    return FastBlock(norms, (first, second), source.conv_shortcut, dtype, forms)


def _of_grey(conv: nn.Conv2d) -> nn.Conv2d:
    """The same for one channel where all that enter are equal."""
    return _changed(conv, conv.weight.detach().float().sum(dim=1, keepdim=True), conv.bias)


def _to_grey(conv: nn.Conv2d) -> nn.Conv2d:
    """Its first output alone."""
    return _changed(conv, conv.weight[:1], None if conv.bias is None else conv.bias[:1])


def _changed(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    c_out, c_in = weight.shape[:2]
    made = nn.Conv2d(c_in, c_out, 3, padding=1, device=weight.device)
    assert bias is not None and made.bias is not None
    made.weight.data, made.bias.data = weight.detach().float(), bias.detach().float()
    return made
