"""The networks on one device: conditions, noisy windows to clean ones, latents to images.

The one file of sampling that touches the networks. It knows no schedule of windows and no solver,
keeps nothing of a volume, and its results do not depend on what else is in a batch.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import SamplingError, WeightsError
from engine.sampling.config import SamplingConfig
from engine.sampling.diffusion.schedule import ScheduleConfig, predicted_x_0
from engine.sampling.networks.batch_sizes import fixed_sizes, slices_at_once, windows_at_once
from engine.sampling.networks.evaluator import Evaluator, Windows, scalars
from engine.sampling.networks.mask_planes import MaskPlanes
from engine.sampling.networks.precision import check_gpu, choose_precision
from engine.sampling.networks.recording import Recording, cuda_recordings
from engine.sampling.networks.slice_batches import SliceBatches
from engine.sampling.networks.slices import draw_slice
from engine.sampling.networks.transfers import host_room, to_device
from engine.sampling.propagation.volume_state import DenoiseItem
from engine.sampling.request import SampleRequest
from models.autoencoder import Autoencoder
from models.conditions import Conditions, guided
from models.cuda_layout import best_forms, lay_out, lay_out_autoencoder
from models.denoiser.layers import freeze_for_cpu, set_plain
from models.denoiser.position import PositionModel
from models.denoiser.unet import Denoiser, to_channels_last
from models.errors import WeightsFileError
from models.image_encoder import ImageTower
from models.mask_encoding import class_appearance, encode_mask
from models.weights.folder import Manifest

BYTES = 4  # conditions and latents are float32
LoadPosition = Callable[[], PositionModel]
CHAINS = 2  # windows of one volume in flight at most


class LatentModel:
    """Autoencoder and denoiser, laid out for speed.

    Args:
        manifest: what the weights are.
        autoencoder: in evaluation mode from here on.
        denoiser: likewise; its weights are laid out in place.
        config: resolved settings.
        device: where to compute.
        tower: vision tower, where the denoiser takes its tokens.
        load_position: loads the model of generated informed slices, when the first is asked for.

    Raises:
        ConfigError: the device cannot be used, or not in this precision.
        WeightsError: it takes tokens and there is no tower.
    """

    def __init__(
        self,
        manifest: Manifest,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        config: SamplingConfig,
        device: torch.device,
        tower: ImageTower | None = None,
        load_position: LoadPosition | None = None,
    ) -> None:
        self.manifest, self.preset, self.config = manifest, manifest.preset, config
        self.device = device
        self.prediction_type = ScheduleConfig.model_validate(manifest.schedule).prediction_type
        check_gpu(device)
        self.dtype = choose_precision(config.precision, device)
        if device.type == "cuda":
            gc.collect()  # recordings of a model that is no longer used hold its memory
        self.fast = config.arithmetic == "fast"
        self.autoencoder = autoencoder.eval().requires_grad_(False).to(device)
        self.denoiser = denoiser.eval().requires_grad_(False).to(device)
        self.tower = self._tower(tower)
        self._load_position = load_position
        self._position: PositionModel | None = None
        self._lay_out()
        self._evaluate: Any = self.denoiser
        if config.compile and self.denoiser.working_dtype is None:  # else compiled by regions
            self._evaluate = torch.compile(self.denoiser.forward, dynamic=False)
        self.max_windows = windows_at_once(config, self.preset, device)
        on_gpu = device.type == "cuda" and config.profile == "engine"
        self.sizes = fixed_sizes(self.max_windows) if on_gpu else ()
        record = cuda_recordings(device) if on_gpu else None
        self._evaluator = self._make_evaluator(record)
        self._encoder = SliceBatches(lambda images: self.autoencoder.encode(images).mean, record)
        self._mask_planes = MaskPlanes(SliceBatches(self._encode_planes, record), device)
        # beside the others, in a stream and so in memory of its own
        self._decoder = SliceBatches(self._decoded, cuda_recordings(device) if on_gpu else None)

    def _lay_out(self) -> None:
        """Weights and layers as the device computes them fastest; plain forms where asked for."""
        set_plain(self.denoiser, not self.fast)
        self._needs_autocast = self.dtype != torch.float32
        if self.fast and self.device.type == "cuda":
            forms = best_forms(self.device, self.dtype, compiled=self.config.compile)
            lay_out(self.denoiser, self.dtype, self.device, forms)
            lay_out_autoencoder(self.autoencoder, self.dtype, self.device, forms)
            self._needs_autocast = False
        elif self.fast:
            to_channels_last(self.denoiser)
            to_channels_last(self.autoencoder)
            freeze_for_cpu(self.denoiser)

    def _make_evaluator(self, record: Callable[[], Recording] | None) -> Evaluator:
        """On a GPU for a few sizes, recorded; the slow baseline launches as it always did."""
        return Evaluator(
            self._evaluated,
            tuple(size * len(self._deep_names) for size in self.sizes),
            self.preset.window,
            record,
            self.config.reuse_features > 1,
        )

    def _evaluated(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        with self._autocast():
            output, deep = self._evaluate(*inputs)
        return output, deep

    @property
    def slices_at_once(self) -> int:
        """Slices to encode or decode together, with the memory that is free now."""
        return slices_at_once(self.config, self.preset, self.device, self.dtype)

    def completed(self, request: SampleRequest) -> SampleRequest:
        """The request with its informed slice drawn, where it came without one.

        Raises:
            SamplingError: there is no position model, or its slice is not finite.
        """
        if request.informed is not None:
            return request
        height, name = request.informed_position, request.sample_id
        net = self._position_model(name)
        drawn = draw_slice(self.manifest, self.autoencoder, net, height, request.seed, name)
        return replace(request, informed=drawn)

    @torch.inference_mode()
    def encode(self, request: SampleRequest, batch: int | None = None) -> Conditions:
        """Mask and informed slice of one volume, each encoded once; the request is complete.

        Args:
            request: with its informed slice.
            batch: slices of the mask encoded together.
        """
        assert request.informed is not None
        informed = to_device(request.informed, self.device)[None, None]
        return Conditions.of_volume(
            self._mask_planes.encoded(request.mask, batch or self.slices_at_once),
            self._encoder(informed, 1).clone(),
            request.informed_position,
            self._appearance(request),
            None if self.tower is None else self.tower(informed),
        )

    def _encode_planes(self, planes: Tensor) -> Tensor:
        return encode_mask(planes, self.preset, self.manifest.num_classes, self.autoencoder)

    @torch.inference_mode()
    def denoise(
        self, items: Sequence[DenoiseItem], conditions: Sequence[Conditions]
    ) -> list[Tensor]:
        """One evaluation of the network for windows of one size.

        Args:
            items: windows, of any volumes and at any steps.
            conditions: of each item's volume.

        Returns:
            Estimates of x_0, `n c h w` float32 each.
        """
        size = items[0].window.size
        halves = [self._halves(item, c) for item, c in zip(items, conditions, strict=True)]
        t, alpha, sigma = scalars(
            self.device,
            [float(item.t) for item in items],
            [item.level.alpha for item in items],
            [item.level.sigma for item in items],
        )
        output = self._network(t, alpha, halves, items)
        x = torch.cat([item.x for item in items])
        alpha, sigma = (values.repeat_interleave(size) for values in (alpha, sigma))
        x_0 = predicted_x_0(self.prediction_type, output, x, alpha, sigma)
        return list(torch.split(x_0, size))

    @torch.inference_mode()
    def decode(self, latents: Tensor, batch: int) -> Tensor:
        """`z c h w` latents -> `z y x` in [-1, 1] on the host, `batch` slices at a time.

        A GPU writes it in its own time: it is whole when the current stream has come so far.
        """
        edge, latents = self.preset.size_px, latents.to(self.device)
        image = host_room((len(latents), edge, edge), torch.float32, self.device)
        for start in range(0, len(latents), batch):
            planes = self._decoder(latents[start : start + batch], batch)
            image[start : start + batch].copy_(planes, non_blocking=True)
        return image

    def _decoded(self, latents: Tensor) -> Tensor:
        """`m c h w` -> `m y x` in [-1, 1]."""
        if self.fast:
            latents = latents.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            decoded = self.autoencoder.decode(latents)
        return decoded[:, 0].clamp(-1.0, 1.0).float()

    def volume_mb(self, num_slices: int) -> float:
        """Memory that a volume holds from its admission to its image."""
        preset, classes = self.preset, self.manifest.num_classes
        channels = preset.autoencoder.latent_channels + preset.mask_channels(classes)
        latents = channels * preset.latent_px**2
        values = num_slices * (latents + preset.size_px**2)
        if self.config.reuse_features > 1:
            spec = preset.denoiser
            deep = spec.base_channels * spec.multipliers[:2][-1] * preset.latent_px**2
            values += len(self._deep_names) * CHAINS * min(num_slices, preset.window) * deep
        return values * BYTES / 2**20

    @property
    def _deep_names(self) -> tuple[str, ...]:
        """Under which names a window keeps deep features: one a half of a guided batch."""
        return ("deep", "deep without conditions") if self.config.is_guided else ("deep",)

    def _network(
        self,
        t: Tensor,
        alpha: Tensor,
        halves: Sequence[Sequence[Conditions]],
        items: Sequence[DenoiseItem],
    ) -> Tensor:
        """The network's output, guided where that is asked for; `(b n) c h w` float32.

        With guidance the batch holds all windows with their conditions, then all without. Guidance
        combines outputs, whatever they are (eps, v, x_0, flow): x_0 is affine in them at given x_t
        and noise level, and the weights of the combination add up to 1, so that this equals
        combining the two estimates of x_0.
        """
        names = self._deep_names
        owners = [(item.memory, name) for name in names for item in items]
        deep = None
        if items[0].evaluation % self.config.reuse_features:
            deep = [memory[name] for memory, name in owners]
        windows = Windows(
            [item.x for item in items] * len(names),
            torch.cat([t] * len(names)),
            torch.cat([alpha] * len(names)),
            [half for part in zip(*halves, strict=True) for half in part],
            deep,
        )
        output, deep_now = self._evaluator(windows)
        if self.config.reuse_features > 1:
            assert deep_now is not None
            parts = torch.split(deep_now, items[0].window.size)
            for (memory, name), features in zip(owners, parts, strict=True):
                memory[name] = features
        output = output.float()
        if not self.config.is_guided:
            return output
        conditioned, unconditioned = output.chunk(2)
        return guided(conditioned, unconditioned, self.config.guidance_scale)

    def _halves(self, item: DenoiseItem, volume: Conditions) -> tuple[Conditions, ...]:
        """A window's conditions, packed at its first evaluation; with guidance, also none."""
        if "conditions" not in item.memory:
            given = self._window(item, volume)
            halves = [given]
            if self.config.is_guided:
                halves.append(given.without(torch.ones_like(item.known)))
            item.memory["conditions"] = tuple(self.denoiser.pack(half) for half in halves)
        kept: tuple[Conditions, ...] = item.memory["conditions"]
        return kept

    def _window(self, item: DenoiseItem, volume: Conditions) -> Conditions:
        """Conditions of a window, with the informed slice that it follows."""
        given = volume.window(item.window.start, item.window.stop, item.known)
        if item.informed is None:
            return given
        latent, z = item.informed
        tokens = None
        if self.tower is not None:  # they follow: seen in the decoded slice, once a window
            tokens = self.tower(self.autoencoder.decode(latent).float().clamp(-1.0, 1.0))
        return given.informed_by(latent, z / max(len(volume) - 1, 1), tokens)

    def _position_model(self, sample_id: str) -> PositionModel:
        if self._position is None:
            try:
                if self._load_position is None:
                    raise WeightsFileError("these weights have no position model")
                self._position = self._load_position().eval().to(self.device)
            except WeightsFileError as error:
                raise SamplingError(
                    f"{sample_id}: no informed slice can be generated ({error})"
                ) from None
        return self._position

    def _tower(self, tower: ImageTower | None) -> ImageTower | None:
        """The tower on its device, where the denoiser takes its tokens."""
        width = self.preset.denoiser.image_token_width
        if width is None:
            return None
        if tower is None or tower.token_width != width:
            raise WeightsError(
                f"preset {self.preset.name} attends to image tokens of width {width}: give the "
                "vision tower it was trained with"
            )
        return tower.eval().requires_grad_(False).to(self.device)

    def _appearance(self, request: SampleRequest) -> Tensor:
        """Class means of the informed slice; without its mask, none of them is known."""
        assert request.informed is not None
        given = request.informed_mask
        classes = np.zeros_like(request.informed, np.uint8) if given is None else given
        image, mask = (to_device(plane, self.device)[None] for plane in (request.informed, classes))
        return class_appearance(image, mask, self.manifest.num_classes)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self._needs_autocast)
