"""Stage `position`: a 2D diffusion model of slices from their height alone (Eq. 2 of the paper).

Its slices are the paper's generated informed slices (IG).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Generator, Tensor

from engine.errors import TrainingError
from engine.sampling.diffusion.schedule import add_noise, training_target
from engine.training.config import TrainSettings
from engine.training.examples.ahead import on_device
from engine.training.examples.encoding import LatentCase
from engine.training.examples.randomness import below, normal
from engine.training.examples.windows import CaseDraw, draw_latent
from engine.training.losses.timesteps import TimestepDraw, loss_weights
from engine.training.settings.stages import PositionSettings
from engine.training.stages.base import Survey, own_settings
from engine.training.stages.latent_stage import Latents, LatentStage
from engine.training.stages.pictures import HEIGHTS, grid, row, sample_heights
from engine.volumes.volume import PreparedCase
from models.denoiser.position import PositionModel
from models.presets import Preset
from models.weights.folder import POSITION, Manifest, load_autoencoder


@dataclass(frozen=True)
class PositionBatch:
    """Slices and their heights.

    Attributes:
        x_0: `b c h w` clean latents.
        p: `b` heights in [0, 1].
        t: `b` timesteps.
        eps: `b c h w`.
    """

    x_0: Tensor
    p: Tensor
    t: Tensor
    eps: Tensor


class PositionStage(LatentStage):
    """Denoising of single slices that know nothing but their height."""

    name = "position"
    weights_file = POSITION
    net: PositionModel

    def __init__(
        self, settings: TrainSettings, preset: Preset, net: PositionModel, latents: Latents
    ) -> None:
        super().__init__(settings, preset)
        self.own = own_settings(settings, PositionSettings)
        self.net, self.schedule, self.num_cases = net, latents.schedule, len(latents.cases)
        self.cases, self.probe_cases = latents.cases, latents.held_out or latents.cases
        self.case_draw = _draw_of(self.cases, settings.data.case_weight)
        self.probe_draw = _draw_of(self.probe_cases, {})
        self.timesteps = TimestepDraw.of(self.own)

    @classmethod
    def from_latents(cls, survey: Survey, latents: Latents) -> Self:
        """The stage with random weights.

        Raises:
            TrainingError: no position model in the preset.
        """
        preset = survey.manifest.preset
        if preset.position is None:
            raise TrainingError(f"preset {preset.name}: has no position model; see PRESETS")
        return cls(survey.settings, preset, PositionModel(preset), latents)

    def sample(self, generators: Sequence[Generator], step: int, *, probe: bool) -> PositionBatch:
        """A slice a generator."""
        cases, draw = (self.probe_cases, self.probe_draw) if probe else (self.cases, self.case_draw)
        planes, heights = [], []
        for generator in generators:
            case = cases[draw.case(generator)]
            z = below(case.num_slices, generator)
            planes.append(draw_latent(case, slice(z, z + 1), generator))
            heights.append(z / max(case.num_slices - 1, 1))
        x_0 = torch.cat(planes)
        timesteps = TimestepDraw() if probe else self.timesteps
        t = timesteps.draw(self.schedule, generators)
        return PositionBatch(x_0, torch.tensor(heights), t, normal(x_0.shape, generators))

    def compute(self, batch: PositionBatch) -> Tensor:
        """Mean squared error of the prediction."""
        x_0, eps = (on_device(v, self.device) for v in (batch.x_0, batch.eps))
        x_t = add_noise(self.schedule, x_0, eps, batch.t)
        output = self.net(x_t, *(on_device(v, self.device) for v in (batch.t, batch.p)))
        errors = output.float() - training_target(self.schedule, x_0, eps, batch.t)
        each = rearrange(errors.square(), "b c h w -> b (c h w)").mean(dim=1)
        weights = loss_weights(
            self.own.loss_weighting, self.own.min_snr_gamma, self.schedule, batch.t
        )
        self.trace.add(each, batch.t)
        return torch.as_tensor((each * on_device(weights, each.device)).mean())

    def picture(
        self, state: Mapping[str, Tensor], cases: Sequence[PreparedCase], manifest: Manifest
    ) -> NDArray[np.uint8]:
        """Slices at fixed heights."""
        del cases
        net = PositionModel(self.preset)
        net.load_state_dict(state)
        autoencoder = load_autoencoder(self.settings.folders.weights, manifest)
        planes = sample_heights(manifest, autoencoder, net.eval(), HEIGHTS, self.settings.data.seed)
        return grid([row(planes)])


def _draw_of(cases: list[LatentCase], weight: Mapping[str, float]) -> CaseDraw:
    return CaseDraw([case.case_id for case in cases], weight)
