"""Stage `distill`: a teacher's many steps into few (arXiv:2202.00512)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from engine.errors import TrainingError
from engine.sampling.config import SamplingConfig
from engine.training.config import TrainSettings
from engine.training.examples.encoding import LatentCase
from engine.training.examples.windows import DenoiserBatch
from engine.training.losses.distillation import DistillDraw, Rounds, distill_loss, draw_distill
from engine.training.losses.objectives import DenoiserLoss
from engine.training.optimisation.ema import Ema
from engine.training.settings.parts import FolderSettings
from engine.training.settings.stages import DistillSettings
from engine.training.stages.base import Survey, own_settings
from engine.training.stages.denoiser import DenoiserStage
from engine.training.stages.latent_stage import Latents
from models.denoiser.unet import Denoiser
from models.weights.folder import AUTOENCODER, DENOISER, Manifest, load_denoiser


class DistillStage(DenoiserStage):
    """A student that needs half the steps of its teacher, round by round."""

    name = "distill"
    needs = (AUTOENCODER, DENOISER)
    fixes_diffusion = False

    def __init__(
        self, settings: TrainSettings, net: Denoiser, latents: Latents, class_weight: Tensor | None
    ) -> None:
        super().__init__(settings, net, latents, class_weight)
        rounds = own_settings(settings, DistillSettings)
        self.rounds = Rounds.between(
            rounds.distill_start, rounds.distill_steps, settings.optimiser.num_iterations
        )
        teacher = Denoiser(net.preset, net.num_classes).eval().requires_grad_(False)
        teacher.load_state_dict(net.state_dict())
        self._teacher = (teacher,)  # not a submodule: neither trained nor exported
        self.current_round = 0

    @classmethod
    def source(cls, folders: FolderSettings) -> Path:
        """The teacher's folder."""
        assert folders.start_from is not None, "the settings of this stage have one"
        return folders.start_from

    @classmethod
    def first_weights(cls, survey: Survey, cases: list[LatentCase]) -> Denoiser:
        """The teacher's.

        Raises:
            TrainingError: its prediction cannot be distilled.
        """
        del cases
        folder = cls.source(survey.settings.folders)
        if survey.manifest.schedule.get("prediction_type") == "eps":
            raise TrainingError(
                f"{folder}: predicts eps, which says nothing about x_0 at high noise; distil a "
                "teacher that predicts v, x_0 or flow"
            )
        return load_denoiser(folder, survey.manifest).train()

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

    def sampling(self) -> SamplingConfig:
        """As many steps as the student has in this round."""
        steps = self.rounds.counts[self.current_round]
        fields = {"solver": "ddim", "num_inference_steps": steps}
        return super().sampling().model_copy(update=fields)

    def write_beside(self, manifest: Manifest) -> Manifest:
        """The teacher's autoencoder, too."""
        folders = self.settings.folders
        teacher = self.source(folders)
        if teacher != folders.weights:
            shutil.copyfile(teacher / AUTOENCODER, folders.weights / AUTOENCODER)
        return super().write_beside(manifest)

    def record(self) -> dict[str, Any]:
        """A student always sees its conditions."""
        return {**super().record(), "condition_dropout": 0.0}

    def recommended(self, iterations: int) -> dict[str, Any]:
        """The steps that the student has learnt."""
        steps = self.rounds.steps(max(iterations - 1, 0))
        return {"solver": "ddim", "num_inference_steps": steps}
