"""Which prepared cases a stage trains on, known by their headers; voxels stay on the disk."""

from __future__ import annotations

from engine.errors import TrainingError
from engine.log import get_logger
from engine.training.settings.parts import DataSettings
from engine.volumes.prepared.manifest import MANIFEST_NAME, SETTINGS_NAME, read_manifest
from engine.volumes.prepared.store import PreparedHeader, list_prepared, read_prepared_header
from models.presets import Preset

log = get_logger(__name__)


def find_cases(config: DataSettings, *, held_out: bool = False) -> list[PreparedHeader]:
    """Headers of the training cases, or of those that `holdout` names, sorted by id.

    Training cases are of `config.splits`; held-out ones of any split, because they are named.

    Raises:
        TrainingError: preparing the data was not finished, or no case is of these splits.
        StoreError: a case or the list of cases is damaged.
    """
    wanted = _held_out(config) if held_out else _of_splits(config)
    return [read_prepared_header(config.data / f"{name}.zarr") for name in wanted]


def _held_out(config: DataSettings) -> list[str]:
    return [name for name in list_prepared(config.data) if name in config.holdout]


def _of_splits(config: DataSettings) -> list[str]:
    """Cases to train on; a folder without a list holds training cases alone."""
    stored = [name for name in list_prepared(config.data) if name not in config.holdout]
    if not (config.data / MANIFEST_NAME).is_file():
        if stored and (config.data / SETTINGS_NAME).is_file():
            raise TrainingError(
                f"{config.data}: preparing was not finished (no {MANIFEST_NAME}), so that test "
                "cases are not known; start prepare_dataset again"
            )
        return stored
    listed = read_manifest(config.data).cases
    unlisted = [name for name in stored if name not in listed]
    if unlisted:
        log.warning(
            "%s: %d cases are not in %s and left out (%s); prepare their data set to the end",
            config.data,
            len(unlisted),
            MANIFEST_NAME,
            ", ".join(unlisted[:10]),
        )
    known = [name for name in stored if name in listed]
    wanted = [name for name in known if listed[name].split in config.splits]
    others = sorted({listed[name].split for name in known} - set(config.splits))
    if known and not wanted:
        raise TrainingError(
            f"{config.data}: no case of split {' or '.join(config.splits)}, its {len(known)} cases "
            f"are {' and '.join(others)}; prepare training cases, or give --splits "
            f"{' '.join(others)}"
        )
    if others:
        log.info("%d cases of split %s are not trained on", len(known) - len(wanted), others[0])
    return wanted


def check_cases(cases: list[PreparedHeader], config: DataSettings, preset: Preset) -> None:
    """Refuse cases that cannot be trained on.

    Raises:
        TrainingError: no case, no image, another size than the preset's, or other classes; names
            the case and the remedy.
    """
    if not cases:
        raise TrainingError(
            f"{config.data}: no prepared case to train on; run prepare_dataset, and give its --out "
            "with --data"
        )
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
