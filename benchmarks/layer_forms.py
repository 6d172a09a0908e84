"""Forms of layers on a GPU at the paper's size, each beside its plain form and its floor.

A floor is the larger of bytes over the bandwidth and arithmetic over the matrix peak, both measured
in the same run. Used by bench_layers.py.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from machine import device_name, matrix_peak_gflops
from models.attention import attend
from models.autoencoder import Autoencoder
from models.cuda_layout import PLAIN_FORMS, FastForms, best_forms, lay_out, lay_out_autoencoder
from models.cuda_layout.attention import mix_slices_by_triton, mix_slices_plainly
from models.cuda_layout.convolutions import FastConv
from models.cuda_layout.norm import FusedNorm, add
from models.cuda_layout.rows import attend_by_products, attend_widely
from models.denoiser import Denoiser, to_channels_last
from models.layers import SliceConv
from models.presets import Preset
from network_input import network_input

ROUNDS, NUM_CLASSES, WINDOWS, SLICES = 5, 5, 4, 8
Forms = dict[str, Callable[[], object]]
DEVICE = torch.device("cuda")


def measure(
    preset: Preset, dtype: torch.dtype, parts: Sequence[str]
) -> Iterator[dict[str, object]]:
    """One row a layer: milliseconds of each form, and its floor."""
    torch.backends.cudnn.benchmark = True
    bandwidth, peak = copy_bandwidth(), matrix_peak_gflops(dtype, "cuda", 8192) / 1e3
    forms = best_forms(DEVICE, dtype)
    yield {
        "device": device_name("cuda"),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "bandwidth_gb_s": round(bandwidth),
        "matrix_peak_tflops": round(peak, 1),
        "forms": str(forms),
    }
    for part in parts:
        started = time.perf_counter()
        for row in PARTS[part](preset, dtype, forms):
            yield row.measured(bandwidth, peak)
        yield {"part": part, "seconds": round(time.perf_counter() - started, 1)}


class Row:
    """A layer at one shape.

    Args:
        name: of layer and shape.
        forms: what to time.
        flop: arithmetic of the layer.
        gb: bytes that it must move, in 10^9.
    """

    def __init__(self, name: str, forms: Forms, flop: float, gb: float) -> None:
        self.name, self.forms, self.flop, self.gb = name, forms, flop, gb

    def measured(self, bandwidth: float, peak: float) -> dict[str, object]:
        """Median milliseconds by form; one that fails says why."""
        floor = max(self.gb / bandwidth, self.flop / peak / 1e12) * 1e3
        found: dict[str, object] = {}
        for form, work in self.forms.items():
            try:
                found[form] = round(milliseconds(work), 4)
            except Exception as error:  # a form that the card lacks must not end the others
                found[form] = f"{type(error).__name__}: {str(error)[:120]}"
        return {"layer": self.name, "floor_ms": round(floor, 4), **found}


def milliseconds(work: Callable[[], object]) -> float:
    """Median over rounds, by events of the device."""
    for _ in range(2):
        work()
    times: list[float] = []
    make: Callable[..., torch.cuda.Event] = torch.cuda.Event
    for _ in range(ROUNDS):
        begun, ended = (make(enable_timing=True) for _ in range(2))
        begun.record()
        work()
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended))
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Of a large copy on the device, bytes read and written, in GB/s."""
    source = torch.randn(2**28, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / 1e6 / milliseconds(lambda: target.copy_(source))


def drawn(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random activations, channels-last where they have four dimensions."""
    x = torch.randn(shape, device=DEVICE).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def networks(preset: Preset, dtype: torch.dtype, forms: FastForms) -> Iterator[Row]:
    """Whole evaluations: recorded as a CUDA graph, launched, and in plain forms under autocast."""
    n, edge = preset.window, preset.latent_px
    latent = preset.autoencoder.latent_channels
    flop = preset_flop(preset)
    denoisers = {
        "fast": lay_out(_denoiser(preset), dtype, DEVICE, forms),
        "plain layers": lay_out(_denoiser(preset), dtype, DEVICE, PLAIN_FORMS),
    }
    for windows in (1, WINDOWS, 2 * WINDOWS):
        _, t, alpha, conditions = network_input(preset, NUM_CLASSES, windows * n)
        t, alpha, conditions = t.to(DEVICE), alpha.to(DEVICE), conditions.to(DEVICE)
        x_t = torch.randn(windows * n, latent, edge, edge, device=DEVICE)
        works: Forms = {}
        for name, net in denoisers.items():
            if name != "fast" and windows != WINDOWS:
                continue
            works[name] = partial(net, x_t, t, alpha, net.pack(conditions), n)
        works["fast, graph"] = recorded(works["fast"])
        yield Row(f"denoiser, {windows} windows", works, windows * flop["denoiser"], 0.0)
    del denoisers
    coder = lay_out_autoencoder(_autoencoder(preset), dtype, DEVICE, forms)
    plain = lay_out_autoencoder(_autoencoder(preset), dtype, DEVICE, PLAIN_FORMS)
    old = to_channels_last(_autoencoder(preset))

    def as_before(work: Callable[[Tensor], object], x: Tensor) -> object:
        with torch.autocast("cuda", dtype=dtype):
            return work(x)

    for slices in (SLICES, 3 * SLICES):
        z = torch.randn(slices, latent, edge, edge, device=DEVICE)
        images = torch.rand(slices, 1, preset.size_px, preset.size_px, device=DEVICE) * 2 - 1
        for name, x in (("decode", z), ("encode", images)):
            fast = partial(getattr(coder, name), x)
            works = {"fast": fast, "fast, graph": recorded(fast)}
            if slices == SLICES:
                works["plain layers"] = partial(getattr(plain, name), x)
                works["diffusers, autocast"] = partial(as_before, getattr(old, name), x)
            yield Row(f"{name}, {slices} slices", works, slices * flop[name], 0.0)


def recorded(work: Callable[[], object]) -> Callable[[], object]:
    """The same as a CUDA graph."""
    make: Callable[[], torch.cuda.Stream] = torch.cuda.Stream
    stream = make()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def profile_networks(preset: Preset, dtype: torch.dtype) -> str:
    """Where the device's time goes in one evaluation and one decoding."""
    from torch.profiler import ProfilerActivity, profile

    forms = best_forms(DEVICE, dtype)
    net = lay_out(_denoiser(preset), dtype, DEVICE, forms)
    coder = lay_out_autoencoder(_autoencoder(preset), dtype, DEVICE, forms)
    x_t, t, alpha, conditions = network_input(preset, NUM_CLASSES, WINDOWS * preset.window)
    told = (x_t.to(DEVICE), t.to(DEVICE), alpha.to(DEVICE), conditions.to(DEVICE))
    z = torch.randn(8, *x_t.shape[1:], device=DEVICE)
    tables = []
    works: Forms = {
        f"denoiser, {WINDOWS} windows": lambda: net(*told, preset.window),
        "decode, 8 slices": lambda: coder.decode(z),
    }
    for name, work in works.items():
        work()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            work()
            torch.cuda.synchronize()
        table = found.key_averages().table(
            sort_by="cuda_time_total", row_limit=30, max_name_column_width=90
        )
        tables.append(f"{name}\n{table}")
    return "\n".join(tables)


def preset_flop(preset: Preset) -> dict[str, float]:
    """Arithmetic of one window's evaluation, and of one slice, in the plain forms."""
    from torch.utils.flop_counter import FlopCounterMode

    found = {}
    with torch.device("meta"):
        net, coder = Denoiser(preset, NUM_CLASSES), Autoencoder(preset.autoencoder)
        latent = torch.zeros(1, preset.autoencoder.latent_channels, *[preset.latent_px] * 2)
        image = torch.zeros(1, 1, preset.size_px, preset.size_px)
        works: Forms = {
            "denoiser": lambda: net(
                *network_input(preset, NUM_CLASSES, preset.window), preset.window
            ),
            "decode": lambda: coder.decode(latent),
            "encode": lambda: coder.encode(image),
        }
        for name, work in works.items():
            with FlopCounterMode(display=False) as counter:
                work()
            found[name] = float(counter.get_total_flops())
    return found


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
        if size in (preset.latent_px, 512) and c != 256:  # compiling takes seconds a shape
            each["compiled"] = replace(forms, norm="compiled")
        works: Forms = {k: partial(FusedNorm(source, f), x, table=table) for k, f in each.items()}
        half = nn.GroupNorm(32, c).to(DEVICE).to(dtype)
        works["torch, channels first"] = partial(_first, half, x)
        yield Row(f"norm, {what}", works, 0.0, 3 * x.nbytes / 1e9)
        works = {kind: partial(add, x, other, table, form) for kind, form in each.items()}
        yield Row(f"sum, {what}", works, 0.0, 3 * x.nbytes / 1e9)


def _first(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.silu(norm(x)).contiguous(memory_format=torch.channels_last)


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
        fused: Forms = {"fused": partial(attend, q, k, v)}
        yield Row(f"attention of planes, {c}, {m} x {p} tokens", fused, 4.0 * m * p * p * c, gb)
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


def _denoiser(preset: Preset) -> Denoiser:
    torch.manual_seed(0)
    with torch.device(DEVICE):
        net = Denoiser(preset, NUM_CLASSES).eval().requires_grad_(False)
        for parameter in net.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return net


def _autoencoder(preset: Preset) -> Autoencoder:
    with torch.device(DEVICE):
        return Autoencoder(preset.autoencoder).eval().requires_grad_(False)


PARTS: dict[str, Callable[[Preset, torch.dtype, FastForms], Iterator[Row]]] = {
    "networks": networks,
    "convolutions": convolutions,
    "norms": norms,
    "attentions": attentions,
}


def run(preset: Preset, dtype_name: str, parts: Sequence[str], profiled: bool) -> int:
    """Print a row a line; the profile comes before the single layers."""
    dtype: torch.dtype = getattr(torch, dtype_name)
    with torch.inference_mode():
        for row in measure(preset, dtype, parts):
            print(json.dumps(row), flush=True)
            if profiled and row.get("part") == "networks":
                print(profile_networks(preset, dtype), flush=True)
    return 0
