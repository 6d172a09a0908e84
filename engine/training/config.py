"""The settings of a training as users write them, flat, and as the code reads them, in parts.

Keys of a YAML file, flags and keys of `train_STAGE.yaml` are all fields of `TrainConfig`. Each is
declared once, in the part that it belongs to. Knows no data and no network.
"""

from __future__ import annotations

from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from engine.config import FrozenConfig
from engine.training.settings.parts import (
    BatchSettings,
    CheckpointSettings,
    DataSettings,
    FolderSettings,
    MachineSettings,
    ModelSettings,
    OptimiserSettings,
    SpecValue,
    Tracker,
    WatchSettings,
)
from engine.training.settings.stages import (
    STAGE_SETTINGS,
    DenoiserFields,
    DiffusionFields,
    DistillFields,
    PixelFields,
    Stage,
    StageChoice,
    StageSettings,
    VolumeFields,
)

__all__ = ["SpecValue", "Stage", "Tracker", "TrainConfig", "TrainSettings"]

C = TypeVar("C", bound=BaseModel)


class TrainSettings(FrozenConfig):
    """A training in parts, each for the room that reads it.

    Attributes:
        folders: where it reads and writes.
        data: what it is trained on.
        model: what is trained.
        optimiser: how, and for how long.
        batch: examples of a step.
        machine: what it runs on.
        checkpoints: what is kept.
        watch: what is shown.
        stage: the stage's own settings; their type is the stage.
    """

    folders: FolderSettings
    data: DataSettings
    model: ModelSettings
    optimiser: OptimiserSettings
    batch: BatchSettings
    machine: MachineSettings
    checkpoints: CheckpointSettings
    watch: WatchSettings
    stage: StageSettings


class TrainConfig(
    DistillFields,
    VolumeFields,
    DenoiserFields,
    DiffusionFields,
    PixelFields,
    WatchSettings,
    CheckpointSettings,
    MachineSettings,
    BatchSettings,
    OptimiserSettings,
    ModelSettings,
    DataSettings,
    FolderSettings,
    StageChoice,
):
    """One stage, with the settings of all stages: those of others have no effect."""

    model_config = ConfigDict(allow_inf_nan=False)

    def nested(self) -> TrainSettings:
        """The settings in parts."""
        return TrainSettings(
            folders=self.part(FolderSettings),
            data=self.part(DataSettings),
            model=self.part(ModelSettings),
            optimiser=self.part(OptimiserSettings),
            batch=self.part(BatchSettings),
            machine=self.part(MachineSettings),
            checkpoints=self.part(CheckpointSettings),
            watch=self.part(WatchSettings),
            stage=self.own(),
        )

    def part(self, kind: type[C]) -> C:
        """The settings that `kind` has fields for."""
        return kind.model_validate({name: getattr(self, name) for name in kind.model_fields})

    def own(self) -> StageSettings:
        """The stage's own settings."""
        return self.part(STAGE_SETTINGS[self.stage])

    @model_validator(mode="after")
    def _fits_the_stage(self) -> Self:
        kind = STAGE_SETTINGS[self.stage]
        if kind.needs_teacher and self.start_from is None:
            raise ValueError(
                f"stage {self.stage} needs start_from, the folder of the teacher's weights"
            )
        if self.num_iterations == 0 and not kind.may_only_measure:
            raise ValueError("num_iterations 0 only measures an autoencoder's latents")
        return self
