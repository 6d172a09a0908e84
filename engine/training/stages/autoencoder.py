"""Stage `autoencoder`: images to latents and back, with KL, feature and patch losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from engine.errors import TrainingError
from engine.training.config import TrainConfig
from engine.training.examples.randomness import generator_for
from engine.training.examples.windows import CropDataset
from engine.training.losses.adversarial import Adversary
from engine.training.losses.objectives import autoencoder_loss, decoder_loss
from engine.training.losses.perceptual import FeatureLoss, load_feature_loss
from engine.training.optimisation.ema import Ema
from engine.training.stages.base import StageModel
from models.autoencoder import Autoencoder
from models.presets import Preset
from models.weights import AUTOENCODER

NUM_MEASURED = 256


class AutoencoderStage(StageModel):
    """Trains the whole autoencoder; its latent scale is measured at the end."""

    weights_file = AUTOENCODER
    measures_latents = True
    net: Autoencoder

    def __init__(
        self,
        config: TrainConfig,
        preset: Preset,
        net: Autoencoder,
        images: Mapping[str, Tensor],
        held_out: Mapping[str, Tensor],
    ) -> None:
        super().__init__(config, preset)
        self.net = net
        self.data = CropDataset(images, config.crop_px, config.case_weight)
        self.probe = CropDataset(held_out, config.crop_px, {}) if held_out else self.data
        self.num_cases = self.data.num_cases
        # not submodules: neither is trained by DeepSpeed nor exported
        self._features: tuple[FeatureLoss, ...] = ()
        if config.perceptual is not None:
            self._features = (load_feature_loss(config.perceptual),)
        self._adversary: Adversary | None = None

    def sample(
        self, generators: Sequence[Generator], step: int, *, probe: bool
    ) -> tuple[Tensor, list[Generator], int]:
        """Crops, and the generators for their posterior draws."""
        data = self.probe if probe else self.data
        return data.batch(generators), list(generators), step

    def compute(self, batch: Any) -> Tensor:
        """L1 and KL of a batch of crops, and the other terms where they are asked for."""
        crops, generators, step = batch
        images = crops.to(self.device)
        loss, decoded, real = self._reconstruction(images, generators)
        loss = loss + self.config.squared_weight * (decoded - real).square().mean()
        self.trace.parts = {"reconstruction": loss.detach()}
        for features in self._features:
            distance = features.to(self.device)(decoded, real)
            self.trace.parts["perceptual"] = distance.detach()
            loss = loss + self.config.perceptual_weight * distance
        if self._takes_part(step):
            loss = loss + self._judge(decoded, real, loss)
        self.trace.add(loss.detach().reshape(1), torch.zeros(1, dtype=torch.int64))
        return loss

    def _reconstruction(
        self, images: Tensor, generators: list[Generator]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return autoencoder_loss(self.net, images, self.config.kl_weight, generators)

    def begin_step(self, step: int, ema: Ema) -> None:
        """Make the discriminator when its time has come."""
        del step, ema
        if self.config.adversarial_weight > 0.0 and self._adversary is None:
            self._adversary = self._new_adversary()

    def end_step(self) -> None:
        """Let the discriminator learn."""
        if self._adversary is not None:
            self._adversary.step()

    def extra_state(self) -> dict[str, Tensor]:
        """The discriminator's."""
        return {} if self._adversary is None else self._adversary.state()

    def load_extra(self, state: Mapping[str, Tensor]) -> None:
        """The discriminator's."""
        if state:
            self._adversary = self._new_adversary()
            self._adversary.load(state)

    @torch.no_grad()
    def measure_latents(self) -> None:
        """Set the latent scale and offset from posterior means of whole training slices.

        Raises:
            TrainingError: the latents do not vary or are not finite.
        """
        self.net.eval()
        means = []
        for index in range(NUM_MEASURED):
            plane = self.data.plane(generator_for(self.config.seed, "measure", index))
            grey = plane.expand(-1, self.net.spec.image_channels, -1, -1).to(self.device)
            means.append(self.net.net.encode(grey).latent_dist.mean.float())
        std, mean = torch.std_mean(torch.cat(means), dim=(0, 2, 3))
        if not bool(torch.isfinite(std).all() and (std > 1e-6).all()):
            raise TrainingError(
                f"{self.config.weights}: latents of the training slices do not vary in every "
                "channel; train the autoencoder longer or with a smaller kl_weight"
            )
        self.net.set_statistics(mean, std)

    def _new_adversary(self) -> Adversary:
        channels, rate = self.net.spec.image_channels, self.config.learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed + 1)  # alike on all workers
            return Adversary(channels, rate, self.device)

    def _takes_part(self, step: int) -> bool:
        started = step >= self.config.adversarial_start
        return self._adversary is not None and started and torch.is_grad_enabled()

    def _judge(self, decoded: Tensor, real: Tensor, loss: Tensor) -> Tensor:
        assert self._adversary is not None
        last = cast(nn.Conv2d, self.net.net.decoder.conv_out).weight
        with torch.autocast(self.device.type, enabled=False):
            own = self._adversary.generator_loss(
                decoded, loss, last, self.config.adversarial_weight
            )
            fooled = self._adversary.accumulate(real, decoded, self.share)
        self.trace.parts |= {"adversarial": own.detach(), "discriminator": fooled}
        return own


class DecoderStage(AutoencoderStage):
    """Trains the decoder alone: latents, their scale and every denoiser stay as they are."""

    measures_latents = False

    def __init__(
        self,
        config: TrainConfig,
        preset: Preset,
        net: Autoencoder,
        images: Mapping[str, Tensor],
        held_out: Mapping[str, Tensor],
    ) -> None:
        super().__init__(config, preset, net, images, held_out)
        for part in (net.net.encoder, net.net.quant_conv):
            part.requires_grad_(False)

    def _reconstruction(
        self, images: Tensor, generators: list[Generator]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return decoder_loss(self.net, images, generators)
