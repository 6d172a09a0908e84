"""Every stage by its name: the one place that goes from the setting `stage` to what it means.

A new stage touches, outside tests: a file of this room with its class; a line here; its name and
settings in `engine/training/settings/stages.py`, and their base in `engine/training/config.py`
where the settings are new; `models/weights/folder.py` where it writes a weights file of its own.

A new conditioning touches: `models/conditions.py` (a field), `models/denoiser/packing.py` (its
channels), `models/presets.py` (the switch), and where it comes from: `LatentCase` in
`engine/training/examples/encoding.py`, `engine/sampling/networks/latent_model.py`.
"""

from __future__ import annotations

import torch

from engine.log import get_logger
from engine.training.stages.autoencoder import AutoencoderStage, DecoderStage
from engine.training.stages.base import StageModel, Survey
from engine.training.stages.denoiser import SliceStage, VolumeStage
from engine.training.stages.distillation import DistillStage
from engine.training.stages.position import PositionStage
from engine.weights import weights_errors

log = get_logger(__name__)

STAGES: dict[str, type[StageModel]] = {
    stage.name: stage
    for stage in (
        AutoencoderStage, SliceStage, VolumeStage, PositionStage, DistillStage, DecoderStage
    )
}  # fmt: skip


def stage_class(name: str) -> type[StageModel]:
    """The stage of that name."""
    return STAGES[name]


def build_stage(survey: Survey) -> StageModel:
    """The stage with its examples and first weights; every worker gets the same.

    Raises:
        TrainingError: cases that cannot be trained on.
        WeightsError: an earlier stage's weights are damaged.
    """
    torch.manual_seed(survey.settings.data.seed)
    with weights_errors():
        stage = stage_class(survey.config.stage).from_survey(survey)
    if stage.num_skipped:
        log.warning("%d cases have fewer slices than a window; left out", stage.num_skipped)
    return stage
