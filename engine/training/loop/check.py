"""What is looked at before a stage begins, in the process of the user's command."""

from __future__ import annotations

import os

from engine.errors import TrainingError
from engine.paths import resolve_paths
from engine.storage.files import PRIVATE_UMASK
from engine.training.config import TrainConfig
from engine.training.stages.base import Survey
from engine.training.stages.survey import survey


def check_stage(config: TrainConfig) -> Survey:
    """Refuse, before any process starts, what can be seen from settings, cases and folders.

    Returns:
        What was found, for `train_stage` or `train_here`.

    Raises:
        TrainingError, WeightsError: see `survey`; or a folder cannot be written.
    """
    found = survey(resolve_paths(config))
    keep_private(config)
    for key, place in (("work", config.work), ("weights", config.weights)):
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{place}: cannot be written ({error.strerror}); choose another folder with --{key}"
            ) from None
    return found


def keep_private(config: TrainConfig) -> None:
    """Have this process write what only its user may read, where that is asked for."""
    if config.private:
        os.umask(PRIVATE_UMASK)
