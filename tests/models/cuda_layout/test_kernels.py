"""Triton kernels give what their plain forms give: here by Triton's interpreter, on a CPU.

The interpreter's bfloat16 rounds towards zero and does not multiply matrices, so that half
precision is float16 here.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from models.cuda_layout.convolutions import interleave
from models.cuda_layout.forms import PLAIN_FORMS, FastForms
from models.cuda_layout.norm import FusedNorm, add
from models.cuda_layout.rows import layer_norm, softmax_by_triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = [(torch.float32, 1e-5), (torch.float16, 2e-3)]
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter")


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="is what runs")
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed (it comes with CUDA builds of torch): no interpreter",
)
def test_in_the_interpreter() -> None:
    """All tests below, in a process that imports Triton with its interpreter."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def near(found: torch.Tensor, wanted: torch.Tensor, most: float) -> None:
    assert found.shape == wanted.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    spread = wanted.float().max() - wanted.float().min()
    assert (found.float() - wanted.float()).abs().max() < most * spread


@interpreted
@pytest.mark.parametrize(("dtype", "most"), DTYPES)
@pytest.mark.parametrize(
    ("channels", "groups", "height", "width"),
    [(28, 7, 1, 3), (56, 8, 9, 11), (160, 32, 3, 5), (16, 4, 35, 3)],
)
@torch.inference_mode()
def test_group_norm(
    channels: int, groups: int, height: int, width: int, dtype: torch.dtype, most: float
) -> None:
    x = last((3.0 * draw(2, channels, height, width) + 5.0).to(dtype))
    source = torch.nn.GroupNorm(groups, channels)
    source.weight.data, source.bias.data = draw(channels, seed=1), draw(channels, seed=2)
    rows, table = draw(2, channels + 3, seed=3)[:, 1:-2], draw(1, channels, seed=4)
    for silu in (True, False):
        fast = FusedNorm(source, FastForms(), silu=silu)
        plain = FusedNorm(source, PLAIN_FORMS, silu=silu)
        near(fast(x), plain(x), most)
    near(fast(x, rows=rows), plain(x, rows=rows), most)
    near(fast(x, rows=rows, table=table), plain(x, rows=rows, table=table), most)
    wanted = torch.nn.functional.group_norm(
        x.float(), groups, source.weight, source.bias, source.eps
    )
    near(fast(x), wanted, most)
    first = channels // 4
    near(fast(x[:, :first], x[:, first:]), plain(x), most)


@interpreted
@torch.inference_mode()
def test_a_large_mean_does_not_hurt_the_variance() -> None:
    x = last(draw(1, 32, 20, 20) + 1000.0)
    source = torch.nn.GroupNorm(8, 32)
    exact = torch.nn.GroupNorm(8, 32).double()(x.double()).float()
    near(FusedNorm(source, FastForms(), silu=False)(x), exact, 1e-4)


@interpreted
@torch.inference_mode()
def test_an_image_does_not_depend_on_its_batch() -> None:
    x = last(draw(3, 32, 12, 12))
    fast = FusedNorm(torch.nn.GroupNorm(8, 32), FastForms())
    assert torch.equal(fast(x)[1:2], fast(last(x[1:2])))


@interpreted
@pytest.mark.parametrize(("dtype", "most"), DTYPES)
@torch.inference_mode()
def test_sums(dtype: torch.dtype, most: float) -> None:
    x, y = (last(draw(4, 40, 5, 9, seed=seed).to(dtype)) for seed in (0, 1))
    table = draw(2, 40, seed=2)
    for other in (y, None):
        near(add(x, other, table, FastForms()), add(x, other, table, PLAIN_FORMS), most)


@interpreted
@torch.inference_mode()
def test_interleaved_phases() -> None:
    phases, bias = last(draw(2, 4 * 24, 4, 6)), draw(1, 24, seed=1)
    for added in (None, bias):
        found = interleave(phases, added, FastForms())
        assert torch.equal(found, interleave(phases, added, PLAIN_FORMS))


@interpreted
@pytest.mark.parametrize(("dtype", "most"), DTYPES)
@pytest.mark.parametrize(
    ("slices", "positions", "heads", "width"),
    [(16, 9, 3, 32), (5, 7, 2, 16), (3, 30, 2, 8), (1, 5, 2, 32), (17, 3, 1, 32)],
)
@torch.inference_mode()
def test_slice_attention(
    slices: int, positions: int, heads: int, width: int, dtype: torch.dtype, most: float
) -> None:
    from models.cuda_layout.attention import mix_slices_by_triton, mix_slices_plainly

    wide = 3 * heads * width
    qkv, table = draw(2 * slices, positions, wide).to(dtype), draw(slices, wide, seed=1)
    found, wanted = (f(qkv, table, heads) for f in (mix_slices_by_triton, mix_slices_plainly))
    assert (found.float() - wanted.float()).abs().max() < most * wanted.abs().max()


@interpreted
@pytest.mark.parametrize(("dtype", "most"), DTYPES)
@pytest.mark.parametrize(("rows", "channels"), [(5, 48), (3, 200), (1, 5000)])
@torch.inference_mode()
def test_layer_norm(rows: int, channels: int, dtype: torch.dtype, most: float) -> None:
    x = (2.0 * draw(2, rows, channels) + 3.0).to(dtype)
    weight, bias = draw(channels, seed=1), draw(channels, seed=2)
    found, wanted = (
        layer_norm(x, weight, bias, 1e-5, forms) for forms in (FastForms(), PLAIN_FORMS)
    )
    assert (found.float() - wanted.float()).abs().max() < most * wanted.abs().max()


@interpreted
@pytest.mark.parametrize("columns", [1, 70, 128])
@torch.inference_mode()
def test_softmax(columns: int) -> None:
    scores = 5.0 * draw(7, columns)
    found = softmax_by_triton(scores, 0.5, torch.float32)
    torch.testing.assert_close(found, (scores * 0.5).softmax(dim=-1))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter's functions are not compiled")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_cards_that_are_not_here(capability: int) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compiled

    from models.cuda_layout.kernels import norms, rows, slice_attention

    settings = {
        norms.moments_kernel: {"CHUNK": 1024, "ROWS": 32, "LANES": 128},
        norms.apply_kernel: {"SILU": True, "ROWS": 32, "LANES": 128},
        rows.layer_norm_kernel: {"ROWS": 8, "LANES": 512},
        slice_attention.slice_attention_kernel: {"SLICES": 16, "TILE": 64, "WIDTH": 32},
    }
    pointers = {"x": "*bf16", "out": "*bf16", "qkv": "*bf16", "eps": "fp32", "scale": "fp32"}
    floats = ("moments", "affine", "weight", "bias", "table")
    for kernel, constants in settings.items():
        kinds = {
            name: "constexpr" if name in constants else "*fp32" if name in floats else "i32"
            for name in kernel.arg_names
        }
        kinds |= {name: kind for name, kind in pointers.items() if name in kinds}
        source = ASTSource(kernel, signature=kinds, constexprs=constants)
        made = compiled(source, target=GPUTarget("cuda", capability, 32))
        assert ".entry" in made.asm["ptx"]
