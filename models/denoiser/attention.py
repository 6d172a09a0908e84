"""The one place that picks the attention kernel: xformers where it runs, torch SDPA elsewhere.

Knows tensors only. xformers imports beside other builds of torch than its own but its kernels raise
there, so it is asked what it was built for, and probed once on the device and data type at hand.
"""

from __future__ import annotations

import functools
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from models.denoiser.xformers_fit import fits


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of `b t heads c` tensors; the result has q's shape.

    On CUDA, xformers' `memory_efficient_attention` is used when a probe with the same head width
    and data type succeeds; otherwise `torch.nn.functional.scaled_dot_product_attention`.
    """
    if q.is_cuda and _xformers_runs(q.shape[-1], q.dtype, q.device.index or 0):
        from xformers.ops import memory_efficient_attention

        return cast(Tensor, memory_efficient_attention(q, k, v))
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def attend_plainly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same as `attend`, with the whole attention matrix in memory; the slow baseline."""
    scores = torch.einsum("bthc,bshc->bhts", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhts,bshc->bthc", scores.softmax(dim=-1), v)


@functools.cache
def _xformers_runs(head_width: int, dtype: torch.dtype, device_index: int) -> bool:
    """Whether xformers' attention (forward and backward) works here; asked once a setting."""
    if not fits():
        return False
    try:
        from xformers.ops import memory_efficient_attention

        probe = torch.zeros(
            1, 16, 1, head_width, dtype=dtype, device=f"cuda:{device_index}", requires_grad=True
        )
        with torch.enable_grad():
            memory_efficient_attention(probe, probe, probe).sum().backward()
    except (ImportError, NotImplementedError, RuntimeError, ValueError):
        return False
    return True
