"""Stage `autoencoder`: images to latents and back, with KL, feature and patch losses.

Stage `decoder` trains the way back alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from engine.errors import TrainingError, WeightsError
from engine.training.config import TrainSettings
from engine.training.examples.ahead import on_device
from engine.training.examples.cache import open_pixels
from engine.training.examples.randomness import generator_for
from engine.training.examples.windows import CropDataset
from engine.training.losses.adversarial import Adversary
from engine.training.losses.objectives import autoencoder_loss, decoder_loss
from engine.training.losses.perceptual import FeatureLoss, load_feature_loss
from engine.training.losses.texture import texture_loss
from engine.training.optimisation.ema import Ema
from engine.training.settings.stages import PixelFields
from engine.training.stages.base import StageModel, Survey, own_settings
from engine.training.stages.pictures import NUM_SHOWN, grid, row
from engine.volumes.volume import PreparedCase
from models.autoencoder import Autoencoder
from models.presets import Preset
from models.weights.folder import AUTOENCODER, Manifest, load_autoencoder, read_manifest

NUM_MEASURED = 256


class AutoencoderStage(StageModel):
    """Trains the whole autoencoder; its latent scale is measured at the end."""

    name = "autoencoder"
    weights_file = AUTOENCODER
    needs: ClassVar[tuple[str, ...]] = ()
    pixels = True
    first = True
    fixes_diffusion = False
    net: Autoencoder

    def __init__(
        self,
        settings: TrainSettings,
        preset: Preset,
        net: Autoencoder,
        images: Mapping[str, Tensor],
        held_out: Mapping[str, Tensor],
    ) -> None:
        super().__init__(settings, preset)
        self.net, self.own = net, own_settings(settings, PixelFields)
        weight, crop_px = settings.data.case_weight, self.own.crop_px
        self.data = CropDataset(images, crop_px, weight)
        self.probe = CropDataset(held_out, crop_px, {}) if held_out else self.data
        self.num_cases = self.data.num_cases
        # not submodules: neither is trained by DeepSpeed nor exported
        self._features: tuple[FeatureLoss, ...] = ()
        if self.own.perceptual is not None:
            self._features = (load_feature_loss(self.own.perceptual),)
        self._adversary: Adversary | None = None

    @classmethod
    def from_survey(cls, survey: Survey) -> Self:
        """The stage on the pixels of the survey's cases."""
        net = cls._first_weights(survey)
        pixels, held_out = open_pixels(survey.plan), open_pixels(survey.probe)
        return cls(survey.settings, survey.manifest.preset, net, pixels, held_out)

    @classmethod
    def _first_weights(cls, survey: Survey) -> Autoencoder:
        """Random, or those of `start_from`."""
        start_from, preset = survey.settings.folders.start_from, survey.manifest.preset
        if start_from is None:
            return Autoencoder(preset.autoencoder)
        source = read_manifest(start_from)
        if source.preset.autoencoder != preset.autoencoder:
            raise WeightsError(
                f"{start_from}: its autoencoder is that of preset {source.preset.name}, not "
                f"of {preset.name}; start from weights of the same architecture"
            )
        return load_autoencoder(start_from, source).train()

    def sample(
        self, generators: Sequence[Generator], step: int, *, probe: bool
    ) -> tuple[Tensor, list[Generator], int]:
        """Crops, and the generators for their posterior draws."""
        data = self.probe if probe else self.data
        return data.batch(generators), list(generators), step

    def compute(self, batch: Any) -> Tensor:
        """L1 and KL of a batch of crops, and the other terms where they are asked for."""
        crops, generators, step = batch
        images = on_device(crops, self.device)
        loss, decoded, real = self._reconstruction(images, generators)
        loss = loss + self.own.squared_weight * (decoded - real).square().mean()
        self.trace.parts = {"reconstruction": loss.detach()}
        for features in self._features:
            distance = features.to(self.device)(decoded, real)
            self.trace.parts["perceptual"] = distance.detach()
            loss = loss + self.own.perceptual_weight * distance
        if self.own.texture_weight > 0.0:
            texture = texture_loss(decoded, real)
            self.trace.parts["texture"] = texture.detach()
            loss = loss + self.own.texture_weight * texture
        if self._takes_part(step):
            loss = loss + self._judge(decoded, real, loss)
        self.trace.add(loss.detach().reshape(1), torch.zeros(1, dtype=torch.int64))
        return loss

    def _reconstruction(
        self, images: Tensor, generators: list[Generator]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return autoencoder_loss(self.net, images, self.own.kl_weight, generators)

    def begin_step(self, step: int, ema: Ema) -> None:
        """Make the discriminator when its time has come."""
        del step, ema
        if self.own.adversarial_weight > 0.0 and self._adversary is None:
            self._adversary = self._new_adversary()

    def end_step(self) -> None:
        """Let the discriminator learn."""
        if self._adversary is not None:
            self._adversary.step()

    def look(self) -> None:
        """Whether the discriminator's gradients were finite."""
        if self._adversary is not None:
            self._adversary.look()

    def extra_state(self) -> dict[str, Tensor]:
        """The discriminator's."""
        return {} if self._adversary is None else self._adversary.state()

    def load_extra(self, state: Mapping[str, Tensor]) -> None:
        """The discriminator's."""
        if state:
            self._adversary = self._new_adversary()
            self._adversary.load(state)

    def recompute_activations(self) -> None:
        """As the autoencoder's own library does it."""
        self.net.net.enable_gradient_checkpointing()

    def picture(
        self, state: Mapping[str, Tensor], cases: Sequence[PreparedCase], manifest: Manifest
    ) -> NDArray[np.uint8]:
        """Real slices, and what comes back from their latents."""
        del manifest
        net = Autoencoder(self.preset.autoencoder)
        net.load_state_dict(state)
        return grid([line for case in cases for line in _rebuilt(net.eval(), case)])

    def finished_state(self, ema: Ema) -> dict[str, Tensor]:
        """The average, with the scale that its latents have."""
        self.net.load_state_dict(ema.full_state(self.net))
        self.measure_latents()
        return dict(self.net.state_dict())

    @torch.no_grad()
    def measure_latents(self) -> None:
        """Set the latent scale and offset from posterior means of whole training slices.

        Raises:
            TrainingError: the latents do not vary or are not finite.
        """
        self.net.eval()
        means = []
        for index in range(NUM_MEASURED):
            plane = self.data.plane(generator_for(self.settings.data.seed, "measure", index))
            grey = plane.expand(-1, self.net.spec.image_channels, -1, -1).to(self.device)
            means.append(self.net.net.encode(grey).latent_dist.mean.float())
        std, mean = torch.std_mean(torch.cat(means), dim=(0, 2, 3))
        if not bool(torch.isfinite(std).all() and (std > 1e-6).all()):
            raise TrainingError(
                f"{self.settings.folders.weights}: latents of the training slices do not vary in "
                "every channel; train the autoencoder longer or with a smaller kl_weight"
            )
        self.net.set_statistics(mean, std)

    def _new_adversary(self) -> Adversary:
        channels, rate = self.net.spec.image_channels, self.settings.optimiser.learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.data.seed + 1)  # alike on all workers
            return Adversary(channels, rate, self.device)

    def _takes_part(self, step: int) -> bool:
        started = step >= self.own.adversarial_start
        return self._adversary is not None and started and torch.is_grad_enabled()

    def _judge(self, decoded: Tensor, real: Tensor, loss: Tensor) -> Tensor:
        assert self._adversary is not None
        last = cast(nn.Conv2d, self.net.net.decoder.conv_out).weight
        with torch.autocast(self.device.type, enabled=False):
            own = self._adversary.generator_loss(decoded, loss, last, self.own.adversarial_weight)
            fooled = self._adversary.accumulate(real, decoded, self.share)
        self.trace.parts |= {"adversarial": own.detach(), "discriminator": fooled}
        return own


class DecoderStage(AutoencoderStage):
    """Trains the decoder alone: latents, their scale and every denoiser stay as they are."""

    name = "decoder"
    needs = (AUTOENCODER,)
    first = False

    def __init__(
        self,
        settings: TrainSettings,
        preset: Preset,
        net: Autoencoder,
        images: Mapping[str, Tensor],
        held_out: Mapping[str, Tensor],
    ) -> None:
        super().__init__(settings, preset, net, images, held_out)
        for part in (net.net.encoder, net.net.quant_conv):
            part.requires_grad_(False)

    @classmethod
    def _first_weights(cls, survey: Survey) -> Autoencoder:
        """Those of the folder."""
        return load_autoencoder(survey.settings.folders.weights, survey.manifest).train()

    def measure_latents(self) -> None:
        """The latents are those that the denoisers were trained on; their scale stays."""

    def _reconstruction(
        self, images: Tensor, generators: list[Generator]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return decoder_loss(self.net, images, generators)


def _rebuilt(net: Autoencoder, case: PreparedCase) -> list[NDArray[np.float32]]:
    assert case.image is not None
    z = np.linspace(0, len(case.image) - 1, NUM_SHOWN + 2).round().astype(int)[1:-1]
    real = torch.from_numpy(case.image[z])[:, None]
    posterior = net.net.encode(real.expand(-1, net.spec.image_channels, -1, -1)).latent_dist
    decoded: Tensor = net.net.decode(posterior.mean).sample[:, 0]
    return [row(case.image[z]), row(decoded.numpy())]
