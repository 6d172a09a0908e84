"""Layers at the shapes of a preset and of KL-f8, each form beside its plain form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from forms.timing import DEVICE, WINDOWS, Forms, Row, drawn
from models.cuda_layout import FastForms
from models.cuda_layout.attention import mix_slices_by_triton, mix_slices_plainly
from models.cuda_layout.convolutions import FastConv
from models.cuda_layout.norm import FusedNorm, add
from models.cuda_layout.rows import attend_by_products, attend_widely, layer_norm
from models.denoiser.attention import attend
from models.denoiser.layers import SliceConv
from models.denoiser.unet import to_channels_last
from models.presets import Preset

_KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)


def convolutions(preset: Preset, dtype: torch.dtype, forms: FastForms) -> Iterator[Row]:
    """Plane and slice convolutions, and upsampled ones, with and without the pass of their bias."""
    m, base = WINDOWS * preset.window, preset.denoiser.base_channels
    shapes = [
        (m, base, base, preset.latent_px),
        (m, 2 * base, base, preset.latent_px),
        (m, 2 * base, 2 * base, preset.latent_px // 2),
        (m, 4 * base, 4 * base, preset.latent_px // 8),
        (8, 128, 128, 512),
        (8, 256, 256, 256),
        (8, 512, 512, 128),
    ]
    for images, c_in, c_out, edge in shapes:
        conv, x = (
            nn.Conv2d(c_in, c_out, 3, padding=1).to(DEVICE),
            drawn(dtype, images, c_in, edge, edge),
        )
        fast, with_bias = FastConv(conv, None, dtype, forms), to_channels_last(conv.to(dtype))
        places = images * edge * edge
        gb = places * (c_in + c_out) * x.element_size() / 1e9
        works: Forms = {"without bias": partial(fast, x), "torch, bias": partial(with_bias, x)}
        yield Row(
            f"3 x 3, {c_in} -> {c_out}, {images} x {edge}^2",
            works,
            18.0 * places * c_in * c_out,
            gb,
        )
    for c, edge in [
        (base, preset.latent_px),
        (2 * base, preset.latent_px // 2),
        (3 * base, preset.latent_px // 4),
    ]:
        yield _slice_row(m, c, edge, preset.window, dtype, forms)
    for images, c, edge in [(m, 2 * base, preset.latent_px // 2), (8, 512, 128), (8, 256, 256)]:
        conv, x = nn.Conv2d(c, c, 3, padding=1).to(DEVICE), drawn(dtype, images, c, edge, edge)
        works = {
            form: partial(
                FastConv(conv, None, dtype, replace(forms, upsample=form), upsampled=True).whole, x
            )
            for form in ("phases", "transposed", "plain")
        }
        places = images * edge * edge
        gb = places * c * 5 * x.element_size() / 1e9
        yield Row(f"upsample, {c}, {images} x {edge}^2", works, 32.0 * places * c * c, gb)


def _slice_row(m: int, c: int, edge: int, n: int, dtype: torch.dtype, forms: FastForms) -> Row:
    source, plane = SliceConv(c).to(DEVICE), nn.Conv2d(c, c, 1).to(DEVICE)
    x = drawn(dtype, m, c, edge, edge)
    works: Forms = {"1D, rearranged": partial(_plain_slice(source, dtype), x, n)}
    for form in ("plane", "volume"):
        slices = FastConv(plane, source, dtype, replace(forms, slice_conv=form), n).slices
        assert slices is not None
        works[form] = partial(slices, x, n)
    places = m * edge * edge
    gb = 2 * places * c * x.element_size() / 1e9
    return Row(f"slice convolution, {c}, {m} x {edge}^2", works, 6.0 * places * c * c, gb)


def _plain_slice(source: SliceConv, dtype: torch.dtype) -> SliceConv:
    plain = SliceConv(source.weight.shape[0]).to(DEVICE).to(dtype).requires_grad_(False)
    plain.plain = True
    return plain


def norms(preset: Preset, dtype: torch.dtype, forms: FastForms) -> Iterator[Row]:
    """Group norm with SiLU, and the sum at the end of a block."""
    m, base, edge = WINDOWS * preset.window, preset.denoiser.base_channels, preset.latent_px
    shapes = [
        (m, base, edge), (m, 2 * base, edge // 2), (m, 4 * base, edge // 8),
        (8, 128, 512), (8, 256, 512), (8, 512, 128),
    ]  # fmt: skip
    for images, c, size in shapes:
        x, source = drawn(dtype, images, c, size, size), nn.GroupNorm(32, c).to(DEVICE)
        other, table = torch.randn_like(x), torch.randn(1, c, device=DEVICE)
        what = f"{c}, {images} x {size}^2"
        each = {"triton": replace(forms, norm="triton"), "plain": replace(forms, norm="plain")}
        works: Forms = {k: partial(FusedNorm(source, f), x, table=table) for k, f in each.items()}
        half = nn.GroupNorm(32, c).to(DEVICE).to(dtype)
        works["torch, channels first"] = partial(_first, half, x)
        yield Row(f"norm, {what}", works, 0.0, 3 * x.nbytes / 1e9)
        works = {kind: partial(add, x, other, table, form) for kind, form in each.items()}
        yield Row(f"sum, {what}", works, 0.0, 3 * x.nbytes / 1e9)


def compiled(preset: Preset, dtype: torch.dtype, forms: FastForms) -> Iterator[Row]:
    """Group norm and sum as torch.compile makes them; seconds of compiling a row."""
    form = replace(forms, norm="compiled")
    m, base, edge = WINDOWS * preset.window, preset.denoiser.base_channels, preset.latent_px
    for images, c, size in [(m, base, edge), (8, 128, 512)]:
        x, source = drawn(dtype, images, c, size, size), nn.GroupNorm(32, c).to(DEVICE)
        other, table = torch.randn_like(x), torch.randn(1, c, device=DEVICE)
        what, gb = f"{c}, {images} x {size}^2", 3 * x.nbytes / 1e9
        norm = FusedNorm(source, form)
        yield Row(f"norm, {what}", {"compiled": partial(norm, x, table=table)}, 0.0, gb)
        yield Row(f"sum, {what}", {"compiled": partial(add, x, other, table, form)}, 0.0, gb)


def _first(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.silu(norm(x)).contiguous(memory_format=torch.channels_last)


def _attend_by(kernel: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    with sdpa_kernel(kernel):
        return F.scaled_dot_product_attention(q, k, v)


def attentions(preset: Preset, dtype: torch.dtype, forms: FastForms) -> Iterator[Row]:
    """Of planes, of slices, and the autoencoder's single wide head."""
    m, n, width = WINDOWS * preset.window, preset.window, preset.denoiser.head_width
    for edge in preset.denoiser.attention_px:
        level = (preset.latent_px // edge).bit_length() - 1
        c = preset.denoiser.base_channels * preset.denoiser.multipliers[level]
        p, heads = edge * edge, c // width
        qkv, table = drawn(dtype, m, p, 3 * c), torch.randn(n, 3 * c, device=DEVICE)
        q, k, v = qkv.view(m, p, 3, heads, width).unbind(2)
        gb = 4 * m * p * c * qkv.element_size() / 1e9
        fused: Forms = {"chosen": partial(attend, q, k, v)}
        fused.update({kernel.name: partial(_attend_by, kernel, q, k, v) for kernel in _KERNELS})
        yield Row(f"attention of planes, {c}, {m} x {p} tokens", fused, 4.0 * m * p * p * c, gb)
        tokens, weight = drawn(dtype, m, p, c), torch.ones(c, device=DEVICE)
        each = {kind: replace(forms, norm=kind) for kind in ("triton", "plain")}
        normed: Forms = {
            kind: partial(layer_norm, tokens, weight, weight, 1e-5, form)
            for kind, form in each.items()
        }
        yield Row(f"layer norm, {c}, {m} x {p} tokens", normed, 0.0, 2 * tokens.nbytes / 1e9)
        works: Forms = {
            "triton": partial(mix_slices_by_triton, qkv, table, heads),
            "plain": partial(mix_slices_plainly, qkv, table, heads),
        }
        yield Row(f"attention of slices, {c}, {m * p // n} x {n}", works, 4.0 * m * p * n * c, gb)
    q, k, v = (drawn(dtype, 8, 4096, 512) for _ in range(3))
    wide: Forms = {
        "fused": partial(attend_widely, q, k, v),
        "products": partial(attend_by_products, q, k, v),
    }
    yield Row("wide attention, 8 x 4096 x 512", wide, 8 * 4.0 * 4096**2 * 512, 4 * q.nbytes / 1e9)
