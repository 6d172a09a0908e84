"""Layer normalisation, and attention of one wide head, over rows of a matrix; each in two forms."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from models.cuda_layout.forms import FastForms

_TILE = 4096  # values that a program of a kernel holds
_MOST_COLUMNS = 1 << 15


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, forms: FastForms) -> Tensor:
    """Layer normalisation of `... c`; parameters and arithmetic float32, the result as x."""
    channels = x.shape[-1]
    if forms.norm != "triton":
        return F.layer_norm(x, (channels,), weight.to(x.dtype), bias.to(x.dtype), eps)
    from models.cuda_layout.kernels.rows import layer_norm_kernel

    x = x.contiguous()
    out, lanes = torch.empty_like(x), 1 << (channels - 1).bit_length()
    num, each = x.numel() // channels, max(1, _TILE // lanes)
    layer_norm_kernel[(-(-num // each),)](
        x, weight, bias, out, num, channels, eps, ROWS=each, LANES=lanes
    )
    return out


def attend_widely(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one head as wide as the channels, `m t c` each, by torch's kernel."""
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by two matrix products, one image at a time to bound memory.

    Flash kernels hold a row of values in registers and take no head of 512. Scores and softmax are
    float32.
    """
    mixed = torch.empty_like(v, memory_format=torch.contiguous_format)
    for index in range(len(q)):
        torch.mm(_weights(q[index], k[index]), v[index], out=mixed[index])
    return mixed


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """`t c` each -> softmax of their products, `t t`."""
    scale, tokens = float(q.shape[-1] ** -0.5), len(k)
    if not q.is_cuda or tokens > _MOST_COLUMNS:
        scores = q.float() @ k.float().T
        return torch.softmax(scores * scale, dim=-1).to(q.dtype)
    half = q.dtype != torch.float32
    scores = torch.mm(q, k.T, out_dtype=torch.float32) if half else q @ k.T
    return softmax_by_triton(scores, scale, q.dtype)


def softmax_by_triton(scores: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Softmax of rows of float32 scores times `scale`, in `dtype`."""
    from models.cuda_layout.kernels.rows import softmax_kernel

    num, columns = scores.shape
    weights, lanes = torch.empty_like(scores, dtype=dtype), 1 << (columns - 1).bit_length()
    softmax_kernel[(num,)](
        scores, weights, columns, scale * math.log2(math.e), LANES=lanes, num_warps=8
    )
    return weights
