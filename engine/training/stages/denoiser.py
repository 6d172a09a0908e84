"""Stages `slice` and `volume` (stage 1 and 2 of the paper), and `distill` on top of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from engine.sampling.diffusion.schedule import Schedule
from engine.training.config import TrainConfig
from engine.training.examples.encoding import LatentCase
from engine.training.examples.windows import DenoiserBatch, LatentDataset
from engine.training.losses.distillation import DistillDraw, Rounds, distill_loss, draw_distill
from engine.training.losses.objectives import (
    DenoiserLoss,
    NoiseDraw,
    Objective,
    denoiser_loss,
    draw_noise,
)
from engine.training.losses.timesteps import TimestepDraw
from engine.training.optimisation.ema import Ema
from engine.training.stages.base import StageModel
from models.denoiser import Denoiser
from models.weights import DENOISER


class DenoiserStage(StageModel):
    """Denoising of single slices (`slice`) or of windows (`volume`).

    Args:
        config: of the stage.
        net: the denoiser to train.
        cases: latents to train on.
        held_out: latents for the probe; none takes the training's.
        schedule: of the diffusion.
        class_weight: `k` extra weights, or None.
    """

    weights_file = DENOISER
    net: Denoiser

    def __init__(
        self,
        config: TrainConfig,
        net: Denoiser,
        cases: list[LatentCase],
        held_out: list[LatentCase],
        schedule: Schedule,
        class_weight: Tensor | None,
    ) -> None:
        super().__init__(config, net.preset)
        window = 1 if config.stage == "slice" else net.preset.window
        self.net, self.schedule = net, schedule
        self.data = LatentDataset(cases, window, config.max_overlap, config.case_weight)
        probe = [case for case in held_out if case.num_slices >= window]
        self.probe = LatentDataset(probe, window, config.max_overlap, {}) if probe else self.data
        self.num_cases, self.num_skipped = self.data.num_cases, self.data.num_skipped
        self.timesteps, self.objective = TimestepDraw.of(config), Objective.of(config, class_weight)
        self._freeze()

    def sample(self, generators: Sequence[Generator], step: int, *, probe: bool) -> Any:
        """A batch and its noise."""
        batch = (self.probe if probe else self.data).batch(generators)
        timesteps = TimestepDraw() if probe else self.timesteps
        dropout = 0.0 if probe else self.config.condition_dropout
        return batch, draw_noise(batch, self.schedule, timesteps, dropout, generators)

    def compute(self, batch: tuple[DenoiserBatch, Any]) -> Tensor:
        """Denoising error of a batch of slices or windows."""
        loss = self.loss(*batch)
        self.trace.add(loss.each, loss.t)
        return loss.total

    def loss(self, batch: DenoiserBatch, draw: NoiseDraw) -> DenoiserLoss:
        """Of what `sample` gave."""
        return denoiser_loss(self.net, self.schedule, batch, draw, self.objective)

    def _freeze(self) -> None:
        """Stage 1 trains what is 2D, stage 2 the volumetric layers (or all)."""
        if self.config.stage == "slice":
            frozen = self.net.volumetric_parameters()
        elif self.config.stage == "volume" and self.config.tune == "volumetric":
            frozen = self.net.plane_parameters()
        else:
            return
        for parameter in frozen:
            parameter.requires_grad_(False)


class DistillStage(DenoiserStage):
    """A student that needs half the steps of its teacher, round by round."""

    def __init__(
        self,
        config: TrainConfig,
        net: Denoiser,
        cases: list[LatentCase],
        held_out: list[LatentCase],
        schedule: Schedule,
        class_weight: Tensor | None,
    ) -> None:
        super().__init__(config, net, cases, held_out, schedule, class_weight)
        self.rounds = Rounds.between(
            config.distill_start, config.distill_steps, config.num_iterations
        )
        teacher = Denoiser(net.preset, net.num_classes).eval().requires_grad_(False)
        teacher.load_state_dict(net.state_dict())
        self._teacher = (teacher,)  # not a submodule: neither trained nor exported
        self.current_round = 0

    @property
    def teacher(self) -> Denoiser:
        """Whose two steps the student learns to take at once."""
        return self._teacher[0]

    def sample(self, generators: Sequence[Generator], step: int, *, probe: bool) -> Any:
        """A batch and one step of the student's ladder an example."""
        batch = (self.probe if probe else self.data).batch(generators)
        return batch, draw_distill(batch, self.schedule, self.rounds.steps(step), generators)

    def loss(self, batch: DenoiserBatch, draw: Any) -> DenoiserLoss:
        """Error against the teacher's two steps."""
        assert isinstance(draw, DistillDraw)
        teacher = self.teacher.to(self.device)
        return distill_loss(self.net, teacher, self.schedule, batch, draw, self.objective)

    def draw_probe(self) -> None:
        """Losses of different rounds do not compare."""

    def begin_step(self, step: int, ema: Ema) -> None:
        """At the start of a round the student's average becomes the teacher."""
        index = self.rounds.index(step)
        if index > self.current_round:
            self.teacher.load_state_dict(ema.full_state(self.net))
        self.current_round = index

    def extra_state(self) -> dict[str, Tensor]:
        """The teacher of this round."""
        tensors: dict[str, Tensor] = {"round": torch.tensor(self.current_round)}
        return tensors | {f"teacher/{k}": v for k, v in self.teacher.state_dict().items()}

    def load_extra(self, state: Mapping[str, Tensor]) -> None:
        """The teacher of the checkpoint's round."""
        self.current_round = int(state["round"])
        self.teacher.load_state_dict(
            {k.removeprefix("teacher/"): v for k, v in state.items() if k.startswith("teacher/")}
        )
