"""Which prepared cases a stage trains on, known by their headers; voxels stay on the disk."""

from __future__ import annotations

from engine.errors import TrainingError
from engine.training.config import TrainConfig
from engine.volumes.prepared_store import PreparedHeader, list_prepared, read_prepared_header
from models.presets import Preset


def find_cases(config: TrainConfig, *, held_out: bool = False) -> list[PreparedHeader]:
    """Headers of the training cases, or of those held out, sorted by id."""
    names = [n for n in list_prepared(config.data) if (n in config.holdout) == held_out]
    return [read_prepared_header(config.data / f"{name}.zarr") for name in names]


def check_cases(cases: list[PreparedHeader], config: TrainConfig, preset: Preset) -> None:
    """Refuse cases that cannot be trained on.

    Raises:
        TrainingError: no case, no image, another size than the preset's, or other classes; names
            the case and the remedy.
    """
    if not cases:
        raise TrainingError(f"{config.data}: no prepared case to train on; run prepare_dataset")
    for case in cases:
        if "image" not in case.sha256:
            raise TrainingError(f"{case.case_id}: has no image; train on cases with images")
        if case.size_zyx[1:] != (preset.size_px, preset.size_px):
            raise TrainingError(
                f"{case.case_id}: slices of {case.size_zyx[1:]}, but preset {preset.name} takes "
                f"{preset.size_px} px squares; prepare with size_yx of the preset"
            )
        if case.class_names != cases[0].class_names:
            raise TrainingError(
                f"{case.case_id}: classes {case.class_names} differ from those of "
                f"{cases[0].case_id}; prepare all cases with one label map"
            )
