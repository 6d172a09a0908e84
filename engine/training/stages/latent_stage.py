"""What the stages share that train on latents: opening the cache, and which classes it shows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from engine.errors import TrainingError
from engine.log import get_logger
from engine.sampling.diffusion.schedule import Schedule, ScheduleConfig, make_schedule
from engine.training.examples.cache import open_latents
from engine.training.examples.encoding import LatentCase
from engine.training.stages.base import StageModel, Survey
from models.weights.folder import Manifest

log = get_logger(__name__)


@dataclass(frozen=True)
class Latents:
    """What a latent stage sees.

    Attributes:
        cases: to train on.
        held_out: for the probe; may be empty.
        schedule: of the diffusion.
    """

    cases: list[LatentCase]
    held_out: list[LatentCase]
    schedule: Schedule


class LatentStage(StageModel):
    """A diffusion model of latents."""

    schedule: Schedule

    @classmethod
    def from_survey(cls, survey: Survey) -> Self:
        """The stage on the latents of the survey's cases; missing ones are encoded first."""
        cases, held_out = open_latents(survey.plan), open_latents(survey.probe)
        missing = _missing_classes(cases, survey.manifest)
        schedule = make_schedule(ScheduleConfig.model_validate(survey.manifest.schedule))
        stage = cls.from_latents(survey, Latents(cases, held_out, schedule))
        stage.missing_classes = missing
        return stage

    @classmethod
    @abstractmethod
    def from_latents(cls, survey: Survey, latents: Latents) -> Self:
        """The stage with its first weights."""


def _missing_classes(cases: Sequence[LatentCase], manifest: Manifest) -> tuple[str, ...]:
    """Names of classes that no mask has.

    Raises:
        TrainingError: no mask has any class.
    """
    seen = {index for case in cases for index in case.classes}
    if not seen:
        raise TrainingError(
            f"all {len(cases)} masks are empty; prepare them with the label map of the data set"
        )
    names = manifest.class_names
    missing = tuple(name for i, name in enumerate(names, start=1) if i not in seen)
    if missing:
        log.warning("no mask has %s: the model cannot learn them", ", ".join(missing))
    return missing
