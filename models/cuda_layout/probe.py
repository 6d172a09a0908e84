"""Whether the kernels of our own work on a GPU: asked once, with a small input of known result."""

from __future__ import annotations

import functools
import importlib.util
import logging
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.cuda_layout.attention import mix_slices_by_triton, mix_slices_plainly
from models.cuda_layout.compiling import keep_on_disk
from models.cuda_layout.forms import PLAIN_FORMS, FastForms
from models.cuda_layout.norm import FusedNorm, add
from models.cuda_layout.rows import attend_by_products, attend_widely, layer_norm

_OLDEST = (8, 0)  # compute capability; Triton dropped Volta (7.0) in 2024
_MOST = 0.02  # of the range; several times what float16 and bfloat16 round
log = logging.getLogger(__name__)


def best_forms(
    device: torch.device, dtype: torch.dtype = torch.float32, *, compiled: bool = False
) -> FastForms:
    """The default on a device: kernels of our own where they compile and are right.

    Where they are not, plain forms compute the same more slowly, and the log says why, once.

    Args:
        device: where to compute.
        dtype: of activations.
        compiled: whether torch.compile makes norms and sums instead.
    """
    keep_on_disk()
    works = device.type == "cuda" and kernels_work(device, dtype)
    forms = FastForms() if works else PLAIN_FORMS
    if works and products_work(device, dtype):
        forms = replace(forms, wide_attention="products")
    return replace(forms, norm="compiled") if compiled else forms


@functools.cache
def products_work(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether wide attention by products runs (torch 2.8 and newer) and gives what it should."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 70, 64, generator=draw).to(device, dtype) for _ in range(3))
    try:
        off = (attend_by_products(q, k, v) - attend_widely(q, k, v)).abs().max()
    except Exception as error:
        log.info("wide attention as torch has it: %s", error)
        return False
    return float(off) < _MOST


@functools.cache
def kernels_work(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton's kernels give what their plain forms give on this GPU."""
    why = _obstacle(device, dtype)
    if why:
        log.warning("plain layers instead of Triton's kernels: %s", why)
    return not why


def _obstacle(device: torch.device, dtype: torch.dtype) -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability(device) < _OLDEST:
        return f"{torch.cuda.get_device_name(device)} is older than Triton compiles for"
    try:
        off = _difference(device, dtype)
    except Exception as error:  # a compiler or a driver may fail in any way
        return f"they do not run ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
    return "" if off < _MOST else f"they differ from the plain form by {off:.3g} of the range"


@torch.inference_mode()
def _difference(device: torch.device, dtype: torch.dtype) -> float:
    """Largest difference of norm, sum and slice attention, in units of the range."""
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device)

    x = drawn(4, 64, 8, 8).to(dtype).contiguous(memory_format=torch.channels_last)
    added, table, norm = drawn(4, 64), drawn(2, 64), nn.GroupNorm(16, 64).to(device)
    both = (FastForms(), PLAIN_FORMS)
    pairs = [
        [FusedNorm(norm, forms)(x, rows=added, table=table) for forms in both],
        [add(x, x, table, forms) for forms in both],
    ]
    weight = drawn(96)
    rows = drawn(3, 5, 96).to(dtype)
    pairs.append([layer_norm(rows, weight, weight, 1e-5, forms) for forms in both])
    qkv, places = drawn(8, 5, 3 * 64).to(dtype), drawn(4, 3 * 64)
    pairs.append([mix(qkv, places, 2) for mix in (mix_slices_by_triton, mix_slices_plainly)])
    off = [(fast.float() - plain.float()).abs().max() / plain.abs().max() for fast, plain in pairs]
    return float(torch.stack(off).max())
