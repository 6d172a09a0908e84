"""The networks on one device: conditions, noisy windows to clean ones, latents to images.

The one file of sampling that touches the networks. It knows no schedule of windows and no solver,
keeps nothing of a volume, and its results do not depend on what else is in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import SamplingError, WeightsError
from engine.sampling.config import SamplingConfig
from engine.sampling.guidance import NetworkInput, combine, with_unconditioned
from engine.sampling.precision import choose_precision
from engine.sampling.propagation import DenoiseItem
from engine.sampling.request import SampleRequest
from engine.sampling.schedule import ScheduleConfig, predicted_x_0
from engine.sampling.slices import draw_slice
from models.autoencoder import Autoencoder
from models.conditioning import class_appearance, encode_mask, fixed_channels, with_noisy
from models.denoiser import Denoiser, to_channels_last
from models.errors import WeightsFileError
from models.image_encoder import ImageTower
from models.layers import freeze_for_cpu, set_plain
from models.position import PositionModel
from models.weights import Manifest

BYTES = 4  # conditions and latents are float32
LoadPosition = Callable[[], PositionModel]
CHAINS = 2  # windows of one volume in flight at most


@dataclass(frozen=True)
class Conditions:
    """What stays the same over all windows and steps of one volume.

    Attributes:
        mask: `z k h w` encoded mask.
        informed: `1 c h w` latent of the informed slice.
        position: height of the informed slice in its own volume, 0 to 1.
        appearance: `1 2 k` normalised class means of the informed slice, and which are known.
        tokens: `1 t k` image tokens of the informed slice, where the denoiser takes them.
    """

    mask: Tensor
    informed: Tensor
    position: float
    appearance: Tensor
    tokens: Tensor | None = None


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
        self.dtype = choose_precision(config.precision, device)
        self.fast = config.arithmetic == "fast"
        self.autoencoder = autoencoder.eval().requires_grad_(False).to(device)
        self.denoiser = denoiser.eval().requires_grad_(False).to(device)
        self.tower = self._tower(tower)
        self._load_position = load_position
        self._position: PositionModel | None = None
        set_plain(self.denoiser, not self.fast)
        if self.fast:
            to_channels_last(self.denoiser)
            to_channels_last(self.autoencoder)
            if device.type == "cpu":
                freeze_for_cpu(self.denoiser)
        self._evaluate: Any = self.denoiser.evaluate
        if config.compile:
            self._evaluate = torch.compile(self.denoiser.evaluate, dynamic=False)

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
    def encode(self, request: SampleRequest) -> Conditions:
        """Mask and informed slice of one volume, each encoded once; the request is complete."""
        assert request.informed is not None
        size = self.config.slices_in_a_batch(self.device)
        classes = self.manifest.num_classes
        masks = torch.from_numpy(np.ascontiguousarray(request.mask)).to(self.device)
        encoded = [
            encode_mask(part, self.preset, classes, self.autoencoder)
            for part in torch.split(masks, size)
        ]
        informed = torch.from_numpy(np.ascontiguousarray(request.informed))[None, None]
        informed = informed.to(self.device)
        return Conditions(
            torch.cat(encoded),
            self.autoencoder.encode(informed).mean,
            request.informed_position,
            self._appearance(request),
            None if self.tower is None else self.tower(informed),
        )

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
        pairs = list(zip(items, conditions, strict=True))
        fixed = torch.cat([self._fixed(item, c) for item, c in pairs])
        known = torch.cat([item.known for item in items])
        x = torch.cat([item.x for item in items])
        alpha = self._repeat([item.level.alpha for item in items], size)
        tokens = [item.memory["tokens"] for item in items if "tokens" in item.memory]
        given = NetworkInput(
            with_noisy(x, fixed, known, alpha, self.preset),
            self._repeat([float(item.t) for item in items], size),
            torch.cat([item.memory["heights"] for item in items]),
            torch.cat([c.appearance for c in conditions]).repeat_interleave(size, dim=0),
            torch.cat(tokens) if tokens else None,
        )
        output = self._network(given, size, items)
        sigma = self._repeat([item.level.sigma for item in items], size)
        x_0 = predicted_x_0(self.prediction_type, output, x, alpha, sigma)
        if self.device.type == "cuda":
            torch.cuda.current_stream(
                self.device
            ).synchronize()  # the next step looks at the result
        return list(torch.split(x_0, size))

    @torch.inference_mode()
    def decode(self, latents: Tensor, batch: int) -> NDArray[np.float32]:
        """`z c h w` latents -> `z y x` in [-1, 1], `batch` slices at a time."""
        parts = []
        for part in torch.split(latents.to(self.device), batch):
            if self.fast:
                part = part.contiguous(memory_format=torch.channels_last)
            with self._autocast():
                image = self.autoencoder.decode(part)
            parts.append(image[:, 0].clamp(-1.0, 1.0).float().cpu())
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)

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

    def _network(self, given: NetworkInput, size: int, items: Sequence[DenoiseItem]) -> Tensor:
        """The network's output, guided where that is asked for; `m c h w` float32."""
        config, names = self.config, self._deep_names
        if config.is_guided:
            given = with_unconditioned(given, self.preset, self.manifest.num_classes)
        stacked = given.stacked
        if self.fast:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        deep = None
        if items[0].evaluation % config.reuse_features:
            deep = torch.cat([item.memory[name] for name in names for item in items])
        with self._autocast():
            output, deep = self._evaluate(
                stacked, given.t, given.heights, size, given.appearance, deep, given.tokens
            )
        if config.reuse_features > 1:
            owners = ((item.memory, name) for name in names for item in items)
            for (memory, name), features in zip(owners, torch.split(deep, size), strict=True):
                memory[name] = features
        output = torch.as_tensor(output).float()
        return combine(output, config.guidance_scale) if config.is_guided else output

    def _fixed(self, item: DenoiseItem, conditions: Conditions) -> Tensor:
        """Condition channels of a window, made at its first evaluation."""
        if "fixed" not in item.memory:
            item.memory.update(self._window_memory(item, conditions))
        return item.memory["fixed"]

    def _window_memory(self, item: DenoiseItem, conditions: Conditions) -> dict[str, Tensor]:
        window = item.window
        last = max(len(conditions.mask) - 1, 1)
        informed, position, tokens = conditions.informed, conditions.position, conditions.tokens
        if item.informed is not None:
            informed, position = item.informed[0], item.informed[1] / last
            if self.tower is not None:  # they follow: seen in the decoded slice, once a window
                tokens = self.tower(self.autoencoder.decode(informed).float().clamp(-1.0, 1.0))
        fixed = fixed_channels(
            conditions.mask[window.start : window.stop],
            informed.expand(window.size, -1, -1, -1),
            item.known,
            conditions.appearance.expand(window.size, -1, -1),
            self.preset,
        )
        z = torch.arange(window.start, window.stop, device=self.device) / last
        heights = torch.stack([z, torch.full_like(z, position)], dim=1)
        memory = {"fixed": fixed, "heights": heights}
        return memory if tokens is None else memory | {"tokens": tokens}

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
        image, mask = (
            torch.from_numpy(np.ascontiguousarray(plane))[None]
            for plane in (request.informed, classes)
        )
        seen = class_appearance(image, mask, self.manifest.num_classes)
        return self.denoiser.normalise_appearance(seen.to(self.device))

    def _repeat(self, values: list[float], size: int) -> Tensor:
        amplitudes = torch.tensor(values, dtype=torch.float64)
        return amplitudes.to(self.device).repeat_interleave(size)

    def _autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled)
