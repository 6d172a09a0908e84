"""The sampler: holds one model and turns requests into volumes.

Place on the path: plan row -> SampleRequest -> windows -> latents -> SampledVolume. Knows no Ray,
no files but the weights folder, and no native grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import validate
from engine.errors import SamplingError, WeightsError
from engine.sampling.config import SamplingConfig
from engine.sampling.precision import choose_precision
from engine.sampling.propagation import DenoiseItem, Propagation
from engine.sampling.schedule import ScheduleConfig, make_schedule, predicted_x_0
from engine.sampling.solvers import make_solver
from engine.sampling.windows import plan_windows
from models.autoencoder import Autoencoder
from models.conditioning import class_appearance, concatenate, encode_mask
from models.denoiser import Denoiser, to_channels_last
from models.weights import (
    Manifest,
    WeightsFileError,
    load_autoencoder,
    load_denoiser,
    read_manifest,
    weights_sha256,
)

__all__ = ["SampleRequest", "SampledVolume", "Sampler", "SamplingConfig"]


@dataclass(frozen=True)
class SampleRequest:
    """One volume to make.

    Attributes:
        sample_id: names the sample; part of its randomness.
        seed: of the run.
        mask: `z y x` classes on the model's grid.
        informed: `y x` float32 slice in [-1, 1].
        informed_mask: `y x` classes of that slice, or None; tells a model that paints masks how
            bright each class is.
        informed_position: height of that slice in its own volume, 0 to 1.
        start: z where the first window starts; None puts the window around the informed height.
    """

    sample_id: str
    seed: int
    mask: NDArray[np.uint8]
    informed: NDArray[np.float32]
    informed_position: float
    informed_mask: NDArray[np.uint8] | None = None
    start: int | None = None


@dataclass(frozen=True)
class SampledVolume:
    """A finished volume on the model's grid.

    Attributes:
        image: `z y x` float32 in [-1, 1].
        joins: z such that slices z - 1 and z were made in different windows.
        num_windows: windows denoised.
        timings_s: seconds by stage (encode, denoise, decode).
    """

    image: NDArray[np.float32]
    joins: tuple[int, ...]
    num_windows: int
    timings_s: dict[str, float]


@dataclass(frozen=True)
class _Conditions:
    """What stays the same over all windows and steps of one volume."""

    mask: Tensor  # z k h w
    informed: Tensor  # 1 c h w
    heights: Tensor  # z 2
    appearance: Tensor | None  # 1 2 k


class Sampler:
    """One model on one device."""

    def __init__(
        self,
        manifest: Manifest,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        config: SamplingConfig,
        device: str = "cpu",
        sha256: str = "",
    ) -> None:
        self.manifest, self.weights_sha256 = manifest, sha256
        self.config = config.resolved(manifest.num_inference_steps)
        self.config.check_against(manifest.preset)
        self.device = torch.device(device)
        self.schedule = make_schedule(ScheduleConfig.model_validate(manifest.schedule))
        self.solver = make_solver(self.config, self.schedule)
        self.dtype = choose_precision(self.config.precision, self.device)
        self.autoencoder = autoencoder.eval().to(self.device)
        self.denoiser = to_channels_last(denoiser.eval().to(self.device))

    @classmethod
    def load(cls, weights: Path, config: SamplingConfig, device: str = "cpu") -> Sampler:
        """Load a weights folder.

        Raises:
            ConfigError: settings that this model cannot do; nothing has been loaded by then.
            WeightsError: a file is missing, damaged or of another architecture.
        """
        try:
            manifest = read_manifest(weights)
            resolved = config.resolved(manifest.num_inference_steps)
            resolved.check_against(manifest.preset)
            where = f"{weights}/config.json, schedule"
            resolved.check_schedule(validate(ScheduleConfig, manifest.schedule, where=where))
            return cls(
                manifest,
                load_autoencoder(weights, manifest),
                load_denoiser(weights, manifest),
                config,
                device,
                weights_sha256(weights),
            )
        except WeightsFileError as error:
            raise WeightsError(str(error)) from None

    @torch.inference_mode()
    def sample(
        self, request: SampleRequest, on_window: Callable[[int, int], None] | None = None
    ) -> SampledVolume:
        """Make one volume; the same request gives the same volume on every worker.

        Args:
            request: mask, informed slice and seed.
            on_window: called with (windows done, windows in all).

        Raises:
            SamplingError: the request does not fit the model, or latents are not finite.
        """
        self._check(request)
        times = [time.perf_counter()]
        conditions = self._encode(request)
        times.append(time.perf_counter())
        num_slices, preset = len(request.mask), self.manifest.preset
        middle = round(request.informed_position * (num_slices - 1))
        start = middle - preset.window // 2 if request.start is None else request.start
        plan = plan_windows(num_slices, preset.window, self.config.overlap, start)
        edge = preset.latent_px
        propagation = Propagation(
            sample_id=request.sample_id,
            seed=request.seed,
            latent_shape=(preset.autoencoder.latent_channels, edge, edge),
            solver=self.solver,
            conditioned=self.config.conditioned(preset),
            paired=self.config.profile == "engine",
        )
        latents = propagation.run(
            plan, num_slices, lambda items: self._denoise(items, conditions), on_window
        )
        times.append(time.perf_counter())
        image = self._decode(latents)
        times.append(time.perf_counter())
        seconds = np.diff(times).tolist()
        timings = dict(zip(("encode", "denoise", "decode"), seconds, strict=True))
        return SampledVolume(image, plan.joins, len(plan.windows), timings)

    def _check(self, request: SampleRequest) -> None:
        edge, classes = self.manifest.preset.size_px, self.manifest.num_classes
        name = request.sample_id
        if request.mask.ndim != 3 or request.mask.shape[1:] != (edge, edge):
            raise SamplingError(
                f"{name}: mask of {request.mask.shape}, but the model takes z x {edge} x {edge}; "
                "prepare with the preset's size_yx"
            )
        if request.informed.shape != (edge, edge) or not np.isfinite(request.informed).all():
            raise SamplingError(f"{name}: the informed slice must be {edge} x {edge} and finite")
        if int(request.mask.max(initial=0)) > classes:
            raise SamplingError(
                f"{name}: mask has class {int(request.mask.max())}, the model knows {classes}; "
                "prepare with the label map of its training"
            )
        if request.informed_mask is not None and request.informed_mask.shape != (edge, edge):
            raise SamplingError(f"{name}: the informed slice's mask must be {edge} x {edge}")

    def _encode(self, request: SampleRequest) -> _Conditions:
        preset, size = self.manifest.preset, self.config.decode_batch
        masks = torch.from_numpy(np.ascontiguousarray(request.mask)).to(self.device)
        encoded = [
            encode_mask(part, preset, self.manifest.num_classes, self.autoencoder)
            for part in torch.split(masks, size)
        ]
        informed = torch.from_numpy(np.ascontiguousarray(request.informed))[None, None]
        z = torch.arange(len(masks)) / max(len(masks) - 1, 1)
        heights = torch.stack([z, torch.full_like(z, request.informed_position)], dim=1)
        return _Conditions(
            torch.cat(encoded),
            self.autoencoder.encode(informed.to(self.device)).mean,
            heights.to(self.device),
            self._appearance(request),
        )

    def _appearance(self, request: SampleRequest) -> Tensor | None:
        if request.informed_mask is None:
            return None
        image, mask = (
            torch.from_numpy(np.ascontiguousarray(plane))[None]
            for plane in (request.informed, request.informed_mask)
        )
        seen = class_appearance(image, mask, self.manifest.num_classes)
        return self.denoiser.normalise_appearance(seen.to(self.device))

    def _denoise(self, items: Sequence[DenoiseItem], conditions: _Conditions) -> list[Tensor]:
        """One evaluation of the network for windows that may stand at different timesteps."""
        size = items[0].window.size
        x = torch.cat([item.x for item in items]).to(self.device)
        z = torch.cat([torch.arange(i.window.start, i.window.stop) for i in items])
        t = torch.tensor([item.t for item in items]).repeat_interleave(size)
        known = torch.cat([item.known for item in items]).to(self.device)
        levels = [(item.level.alpha, item.level.sigma) for item in items]
        informed = conditions.informed.expand(len(x), -1, -1, -1)
        z = z.to(self.device)
        alpha, sigma = (
            torch.tensor([pair[i] for pair in levels], dtype=torch.float64).repeat_interleave(size)
            for i in range(2)
        )
        seen = conditions.appearance
        seen = None if seen is None else seen.expand(len(x), -1, -1)
        preset = self.manifest.preset
        stacked = concatenate(
            x, conditions.mask[z], informed, known, alpha.to(self.device), seen, preset
        )
        stacked = stacked.contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32
        ):
            output = self.denoiser(stacked, t.to(self.device), conditions.heights[z], size, seen)
        x_0 = predicted_x_0(self.schedule.prediction_type, output.float(), x, alpha, sigma)
        return list(torch.split(x_0.cpu(), size))

    def _decode(self, latents: Tensor) -> NDArray[np.float32]:
        """`z c h w` latents -> `z y x` in [-1, 1], a few slices at a time."""
        parts = [
            self.autoencoder.decode(part.to(self.device))[:, 0].clamp(-1.0, 1.0).cpu()
            for part in torch.split(latents, self.config.decode_batch)
        ]
        return np.asarray(torch.cat(parts).float().numpy(), dtype=np.float32)
