"""Whole networks: evaluations of the denoiser, encoding and decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from forms.timing import DEVICE, NUM_CLASSES, SLICES, WINDOWS, Forms, Row
from models.autoencoder import Autoencoder
from models.cuda_layout import PLAIN_FORMS, FastForms, best_forms, lay_out, lay_out_autoencoder
from models.denoiser.unet import Denoiser, to_channels_last
from models.presets import Preset
from network_input import network_input


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


def quick(preset: Preset, dtype: torch.dtype, forms: FastForms) -> Iterator[Row]:
    """The networks as sampling calls them, with cuDNN's own ranking of kernels and by trial."""
    latent, edge, n = preset.autoencoder.latent_channels, preset.latent_px, preset.window
    coder = lay_out_autoencoder(_autoencoder(preset), dtype, DEVICE, forms)
    net = lay_out(_denoiser(preset), dtype, DEVICE, forms)
    z = torch.randn(SLICES, latent, edge, edge, device=DEVICE)
    images = torch.rand(SLICES, 1, preset.size_px, preset.size_px, device=DEVICE) * 2 - 1
    x_t = torch.randn(2 * WINDOWS * n, latent, edge, edge, device=DEVICE)
    _, t, alpha, conditions = network_input(preset, NUM_CLASSES, len(x_t))
    told = (t.to(DEVICE), alpha.to(DEVICE), net.pack(conditions.to(DEVICE)), n)
    works: Forms = {
        "decode": partial(coder.decode, z),
        "encode": partial(coder.encode, images),
        "denoiser": partial(net, x_t, *told),
    }
    flop = preset_flop(preset)
    for name, work in works.items():
        num = 2 * WINDOWS if name == "denoiser" else SLICES
        for tried in (False, True):
            torch.backends.cudnn.benchmark = tried
            forms_of_row: Forms = {"by trial" if tried else "by rank": recorded(work)}
            yield Row(f"{name}, {num} at once", forms_of_row, num * flop[name], 0.0)
        torch.backends.cudnn.benchmark = False


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
    z = torch.randn(SLICES, *x_t.shape[1:], device=DEVICE)
    images = torch.rand(SLICES, 1, preset.size_px, preset.size_px, device=DEVICE)
    tables = []
    works: Forms = {
        f"denoiser, {WINDOWS} windows": lambda: net(*told, preset.window),
        f"decode, {SLICES} slices": lambda: coder.decode(z),
        f"encode, {SLICES} slices": lambda: coder.encode(images),
    }
    for name, work in works.items():
        work()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            work()
            torch.cuda.synchronize()
        table = found.key_averages().table(
            sort_by="cuda_time_total", row_limit=20, max_name_column_width=90
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
