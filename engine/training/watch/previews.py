"""Pictures of what a model in training makes of fixed cases.

A failure to make a picture never ends a training. What a picture shows is the stage's business.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from engine.training.optimisation.ema import Ema
from engine.training.stages.base import StageModel, Survey
from engine.volumes.prepared.store import read_prepared

NUM_CASES = 2


class Previews:
    """Fixed cases, and how they look.

    Args:
        survey: of the training; held-out cases are shown where there are any.
    """

    def __init__(self, survey: Survey) -> None:
        self.manifest, data = survey.manifest, survey.settings.data.data
        headers = (survey.held_out or survey.cases)[:NUM_CASES]
        cases = [read_prepared(data / f"{header.case_id}.zarr") for header in headers]
        self.cases = [case for case in cases if case.image is not None]

    @torch.no_grad()
    def picture(self, stage: StageModel, ema: Ema) -> NDArray[np.uint8]:
        """Grid `y x`: rows of real slices and of what the average makes in their place.

        Raises:
            SamplingError: the model's output is not finite.
        """
        state = {name: value.cpu() for name, value in ema.full_state(stage.net).items()}
        return stage.picture(state, self.cases, self.manifest)
