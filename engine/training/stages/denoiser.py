"""Stages `slice` and `volume`: stage 1 and 2 of the paper."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from engine.errors import TrainingError
from engine.sampling.config import SamplingConfig
from engine.training.config import TrainSettings
from engine.training.examples.encoding import LatentCase
from engine.training.examples.windows import DenoiserBatch, LatentDataset
from engine.training.losses.objectives import (
    DenoiserLoss,
    NoiseDraw,
    Objective,
    denoiser_loss,
    draw_noise,
)
from engine.training.losses.timesteps import TimestepDraw
from engine.training.settings.stages import DenoiserSettings, VolumeSettings
from engine.training.stages.base import Survey, own_settings
from engine.training.stages.latent_stage import Latents, LatentStage
from engine.training.stages.pictures import NUM_SHOWN, grid, row, sample_window
from engine.training.stages.vision_tower import keep_tower, training_tower
from engine.volumes.volume import PreparedCase
from models.denoiser.unet import Denoiser, to_channels_last
from models.weights.folder import AUTOENCODER, DENOISER, Manifest, load_autoencoder, load_denoiser


class DenoiserStage(LatentStage):
    """Denoising of slices or windows with their conditions.

    Args:
        settings: of the training.
        net: the denoiser to train.
        latents: what it sees; without held-out cases the probe takes the training's.
        class_weight: `k` extra weights, or None.
    """

    weights_file = DENOISER
    takes_tokens = True
    net: Denoiser

    def __init__(
        self, settings: TrainSettings, net: Denoiser, latents: Latents, class_weight: Tensor | None
    ) -> None:
        super().__init__(settings, net.preset)
        self.own = own = own_settings(settings, DenoiserSettings)
        self.net, self.schedule = net, latents.schedule
        window, overlap = self.num_slices(net), own.max_overlap
        pinned = own.pinned_share if net.preset.denoiser.known_slice_input else 0.0
        weight = settings.data.case_weight
        self.data = LatentDataset(latents.cases, window, overlap, weight, pinned)
        probe = [case for case in latents.held_out if case.num_slices >= window]
        self.probe = LatentDataset(probe, window, overlap, {}) if probe else self.data
        self.num_cases, self.num_skipped = self.data.num_cases, self.data.num_skipped
        self.timesteps, self.objective = TimestepDraw.of(own), Objective.of(own, class_weight)
        for parameter in self.frozen():
            parameter.requires_grad_(False)

    @classmethod
    def from_latents(cls, survey: Survey, latents: Latents) -> Self:
        """The stage with its first denoiser."""
        weight = _class_weight(own_settings(survey.settings, DenoiserSettings), survey.manifest)
        net = cls.first_weights(survey, latents.cases)
        return cls(survey.settings, net, latents, weight)

    @classmethod
    @abstractmethod
    def first_weights(cls, survey: Survey, cases: list[LatentCase]) -> Denoiser:
        """The denoiser to begin with, in training mode."""

    def num_slices(self, net: Denoiser) -> int:
        """Slices of an example; 1 is a single slice."""
        return net.preset.window

    def frozen(self) -> Iterable[nn.Parameter]:
        """Parameters that are not trained."""
        return ()

    def sample(self, generators: Sequence[Generator], step: int, *, probe: bool) -> Any:
        """A batch and its noise."""
        batch = (self.probe if probe else self.data).batch(generators)
        timesteps = TimestepDraw() if probe else self.timesteps
        dropout = 0.0 if probe else self.own.condition_dropout
        return batch, draw_noise(batch, self.schedule, timesteps, dropout, generators)

    def compute(self, batch: tuple[DenoiserBatch, Any]) -> Tensor:
        """Denoising error of a batch of slices or windows."""
        loss = self.loss(*batch)
        self.trace.add(loss.each, loss.t)
        return loss.total

    def loss(self, batch: DenoiserBatch, draw: NoiseDraw) -> DenoiserLoss:
        """Of what `sample` gave."""
        return denoiser_loss(self.net, self.schedule, batch, draw, self.objective)

    def choose_memory_format(self) -> None:
        """Channels last."""
        to_channels_last(self.net)

    def picture(
        self, state: Mapping[str, Tensor], cases: Sequence[PreparedCase], manifest: Manifest
    ) -> NDArray[np.uint8]:
        """Real slices, and a window from noise with the case's own mask and middle slice."""
        net = Denoiser(self.preset, manifest.num_classes)
        net.load_state_dict(state)
        rows = [self._sampled(net, case, manifest) for case in cases]
        return grid([line for pair in rows for line in pair])

    def sampling(self) -> SamplingConfig:
        """How pictures are sampled."""
        return SamplingConfig(precision="float32", overlap=1)

    def write_beside(self, manifest: Manifest) -> Manifest:
        """The vision tower, where the preset takes image tokens."""
        return keep_tower(self.settings.model, manifest, self.settings.folders.weights)

    def record(self) -> dict[str, Any]:
        """Whether it has learnt to do without its conditions, and with its slice in a window."""
        return {
            "condition_dropout": self.own.condition_dropout,
            "pinned_share": self.data.pinned_share,
        }

    def _sampled(
        self, net: Denoiser, case: PreparedCase, manifest: Manifest
    ) -> list[NDArray[np.float32]]:
        assert case.image is not None
        autoencoder = load_autoencoder(self.source(self.settings.folders), manifest)
        size = min(net.preset.window, len(case.mask))
        low = (len(case.mask) - size) // 2
        middle = low + size // 2
        tower = training_tower(self.settings.model, net.preset)
        made = sample_window(
            manifest, autoencoder, net, case, low, size, middle, self.sampling(), tower
        )
        z = np.linspace(0, size - 1, min(NUM_SHOWN, size)).round().astype(int)
        return [row(case.image[low + z]), row(made[z])]


class SliceStage(DenoiserStage):
    """Stage 1: what is 2D of the denoiser, on single slices with a timestep each."""

    name = "slice"

    @classmethod
    def first_weights(cls, survey: Survey, cases: list[LatentCase]) -> Denoiser:
        """Random, or those of the same stage when it is trained on."""
        manifest = survey.manifest
        if cls.name in manifest.stages:
            net = load_denoiser(survey.settings.folders.weights, manifest).train()
        else:
            net = Denoiser(manifest.preset, manifest.num_classes)
        return _with_appearance(net, cases)

    def num_slices(self, net: Denoiser) -> int:
        """Single slices."""
        del net
        return 1

    def frozen(self) -> Iterable[nn.Parameter]:
        """The volumetric layers."""
        return self.net.volumetric_parameters()


class VolumeStage(DenoiserStage):
    """Stage 2: the volumetric layers (or all), on windows with one timestep each."""

    name = "volume"
    needs = (AUTOENCODER, DENOISER)

    @classmethod
    def first_weights(cls, survey: Survey, cases: list[LatentCase]) -> Denoiser:
        """The average that stage 1 left."""
        net = load_denoiser(survey.settings.folders.weights, survey.manifest).train()
        return _with_appearance(net, cases)

    def frozen(self) -> Iterable[nn.Parameter]:
        """What stage 1 has trained, as the settings say."""
        tune = own_settings(self.settings, VolumeSettings).tune
        return self.net.plane_parameters() if tune == "volumetric" else ()


def _with_appearance(net: Denoiser, cases: list[LatentCase]) -> Denoiser:
    """The denoiser with the mean and spread of class intensities in the training cases."""
    if net.preset.denoiser.class_intensity_input:
        net.set_appearance_statistics(torch.cat([case.appearance for case in cases]))
    return net


def _class_weight(config: DenoiserSettings, manifest: Manifest) -> Tensor | None:
    if not config.class_weight:
        return None
    unknown = sorted(set(config.class_weight) - set(manifest.class_names))
    if unknown:
        raise TrainingError(f"class_weight names {unknown}; the classes are {manifest.class_names}")
    if manifest.preset.denoiser.mask_encoding != "one_hot":
        raise TrainingError(f"class_weight needs one_hot masks; {manifest.preset.name} has others")
    return torch.tensor([config.class_weight.get(name, 0.0) for name in manifest.class_names])
