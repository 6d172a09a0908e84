"""One way of sampling, measured: seconds and arithmetic of each part, memory, kernels."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.runs.making.volume_maker import peak_memory_mb as process_peak_memory_mb
from engine.sampling.networks.precision import exact_float32
from engine.sampling.sampler import SampledVolume, Sampler, SampleRequest, SamplingConfig
from engine.volumes.volume import PreparedCase
from machine import matrix_peak_gflops, synchronize
from models.presets import Preset
from models.weights.folder import Manifest, read_manifest
from speed.arithmetic import Arithmetic
from speed.kernels import kernel_times
from speed.material import (
    SEED,
    distinct_planes,
    marked,
    random_manifest,
    random_networks,
    shortened,
    stretched_phantom,
)

PARTS = ("encode", "denoise", "decode")
_SHORT = 2.5  # windows of the volume that warms up and is profiled
_EDGE_GPU, _EDGE_CPU = 8192, 2048  # of the matrices that tell the device's peak


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        label: in the table.
        volumes: sampled together.
        replicas: whether they share one mask; else no two of their planes are equal.
        profile: whether the profiler looks at the kernels; on a GPU only.
        sampling: fields of `SamplingConfig`.
    """

    label: str
    volumes: int
    sampling: Mapping[str, Any]
    replicas: bool = False
    profile: bool = False

    @classmethod
    def parse(cls, text: str) -> Setting:
        """From a command line.

        >>> Setting.parse("half volumes=4 precision=float16 compile=true").sampling
        {'precision': 'float16', 'compile': True}
        """
        label, *pairs = text.split()
        fields = dict(pair.split("=", 1) for pair in pairs)
        volumes = int(fields.pop("volumes", 1))
        flags = {n: bool(_value(fields.pop(n, "false"))) for n in ("replicas", "profile")}
        return cls(label, volumes, {n: _value(raw) for n, raw in fields.items()}, **flags)


@dataclass(frozen=True)
class Bench:
    """Where settings are measured.

    Attributes:
        folder: weights; None makes random ones for each setting.
        manifest: of the weights.
        case: what is sampled.
        device: "cpu" or "cuda".
        arithmetic: of the networks.
    """

    folder: Path | None
    manifest: Manifest
    case: PreparedCase
    device: str
    arithmetic: Arithmetic

    @classmethod
    def of(cls, preset: Preset, folder: Path | None, num_slices: int, device: str) -> Bench:
        """Of a preset with random weights, or of the weights of a folder."""
        manifest = random_manifest(preset) if folder is None else read_manifest(folder)
        case = stretched_phantom(manifest.preset.size_px, num_slices)
        return cls(folder, manifest, case, device, Arithmetic.of(manifest))

    def rows(self, settings: Sequence[Setting]) -> list[dict[str, Any]]:
        """A row a setting, each printed as soon as it is known."""
        found = []
        for setting in settings:
            row = {"preset": self.manifest.preset.name, **self.try_to_measure(setting)}
            print(json.dumps({k: v for k, v in row.items() if k != "kernels"}), flush=True)
            found.append(row)
        return found

    def try_to_measure(self, setting: Setting) -> dict[str, Any]:
        """`measure`; a setting that fails is told, and does not end the bench."""
        try:
            return self.measure(setting)
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            told = f"{type(error).__name__}: {error}".replace("\n", " ")
            return {"label": setting.label, "error": told[:300]}

    def measure(self, setting: Setting) -> dict[str, Any]:
        """Load, warm up, sample `setting.volumes` volumes together, look at the kernels."""
        started = time.perf_counter()
        sampler = self._sampler(SamplingConfig(**setting.sampling))
        synchronize(self.device)
        loaded = time.perf_counter() - started
        length, short = len(self.case.mask), int(_SHORT * sampler.manifest.preset.window)
        first = self._timed(sampler, self._requests(setting, short, seen=1))[0]
        self._timed(sampler, self._requests(setting, length, seen=2)[:1])
        self._forget_memory()
        requests = self._requests(setting, length)
        peak = self._peak(sampler)
        wall, volumes = self._timed(sampler, requests)
        peak = max(peak, self._peak(sampler))
        seen: dict[str, Any] = {}
        if setting.profile and self.device == "cuda":
            print(f"{setting.label}: {wall / len(volumes):.3f} s a volume; profiling", flush=True)
            turns = iter((3, 4))
            times = kernel_times(
                lambda: self._timed(sampler, self._requests(setting, short, seen=next(turns)))
            )
            seen = {
                "kernels": asdict(times),
                "launch_free": round(times.busy_s / times.wall_s, 3),
            }
        return {
            "label": setting.label,
            "settings": dict(setting.sampling),
            "precision": str(sampler.model.dtype).removeprefix("torch."),
            "solver": sampler.config.solver,
            "num_inference_steps": sampler.config.num_inference_steps,
            **self._figures(sampler, volumes, wall, peak),
            "load_s": round(loaded, 2),
            "first_s": round(first, 2),  # compiling, capturing and choosing algorithms included
            **self._memory(),
            "replicas": setting.replicas,
            "distinct_planes": distinct_planes(plane for r in requests for plane in r.mask),
            "finite": all(bool(np.isfinite(v.image).all()) for v in volumes),
            **seen,
        }

    def _figures(
        self, sampler: Sampler, volumes: list[SampledVolume], wall: float, peak: float
    ) -> dict[str, Any]:
        """Seconds, arithmetic and shares of the peak; all a volume."""
        n, length = len(volumes), len(self.case.mask)
        windows = sum(v.num_windows for v in volumes)
        steps = windows * sampler.solver.num_evaluations
        seconds = {k: sum(v.timings_s.get(k, 0.0) for v in volumes) / n for k in PARTS}
        tflop = {
            "encode": self.arithmetic.encode(length),
            "denoise": self.arithmetic.denoise(steps) / n,
            "decode": self.arithmetic.decode(length),
        }
        return {
            "volumes": n,
            "num_slices": length,
            "s_per_volume": round(wall / n, 4),
            "volumes_an_hour": round(3600.0 * n / wall, 1),
            "ms_a_slice": round(1e3 * wall / n / length, 3),
            "ms_a_window_step": round(1e3 * seconds["denoise"] * n / steps, 3),
            "window_steps": steps // n,
            "seconds": {k: round(s, 4) for k, s in seconds.items()},
            "tflop": {k: round(t, 3) for k, t in tflop.items()},
            "peak_tflops": round(peak, 4),
            "share_of_peak": {
                k: round(t / seconds[k] / peak, 4) if seconds[k] else None for k, t in tflop.items()
            },
            "share_of_peak_volume": round(sum(tflop.values()) * n / wall / peak, 4),
        }

    def _sampler(self, config: SamplingConfig) -> Sampler:
        if self.folder is not None:
            return Sampler.load(self.folder, config, self.device)
        exact_float32()
        networks = random_networks(self.manifest, self.device)
        return Sampler(self.manifest, *networks, config, self.device)

    def _timed(
        self, sampler: Sampler, requests: list[SampleRequest]
    ) -> tuple[float, list[SampledVolume]]:
        synchronize(self.device)
        started = time.perf_counter()
        volumes = [outcome.result() for outcome in sampler.sample_many(requests)]
        synchronize(self.device)
        return time.perf_counter() - started, volumes

    def _requests(self, setting: Setting, num_slices: int, seen: int = 0) -> list[SampleRequest]:
        """The setting's volumes; those of another `seen` share no plane with them.

        A sampler keeps encoded planes, so what warms it up must not be what is timed.
        """
        case = self.case if num_slices >= len(self.case.mask) else shortened(self.case, num_slices)
        assert case.image is not None
        z = len(self.case.mask) // 2 % len(case.mask)
        first = seen * setting.volumes
        masks = [
            marked(case.mask, first if setting.replicas else first + i)
            for i in range(setting.volumes)
        ]
        return [
            SampleRequest(f"bench{seen}-{i}", SEED, mask, case.image[z], 0.5, case.mask[z])
            for i, mask in enumerate(masks)
        ]

    def _peak(self, sampler: Sampler) -> float:
        """Of the device in the setting's precision, in 10^12 a second."""
        edge = _EDGE_GPU if self.device == "cuda" else _EDGE_CPU
        return matrix_peak_gflops(sampler.model.dtype, self.device, edge) / 1e3

    def _forget_memory(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _memory(self) -> dict[str, float]:
        """MB: of the GPU, as tensors and as reserved for them, or of this process."""
        if self.device != "cuda":
            return {"memory_mb": process_peak_memory_mb()}
        return {
            "memory_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1),
            "reserved_mb": round(torch.cuda.max_memory_reserved() / 1e6, 1),
        }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in short, a line each."""
    head = (
        f"{'setting':28s} {'n':>3s} {'s/vol':>8s} {'encode':>7s} {'denoise':>8s} {'decode':>7s} "
        f"{'peak den.':>9s} {'peak vol.':>9s} {'busy':>6s} {'MB':>7s} {'first s':>8s}"
    )
    return "\n".join([head, *(_line(row) for row in rows)])


def _line(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['label']:28s} {row['error'][:90]}"
    part, name = row["seconds"], f"{row['preset']} {row['label']}"
    busy = row.get("launch_free", float("nan"))
    return (
        f"{name[:28]:28s} {row['volumes']:3d} {row['s_per_volume']:8.3f} {part['encode']:7.3f} "
        f"{part['denoise']:8.3f} {part['decode']:7.3f} {row['share_of_peak']['denoise'] or 0:9.3f} "
        f"{row['share_of_peak_volume']:9.3f} {busy:6.3f} {row['memory_mb']:7.0f} "
        f"{row['first_s']:8.2f}"
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
