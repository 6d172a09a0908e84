"""The vision tower of a denoiser that attends to image tokens: read, compared, kept with weights.

The tower is frozen and not ours, but tokens of another one mean nothing to the denoiser: so it
travels with the weights, in full precision. Knows no training.
"""

from __future__ import annotations

from pathlib import Path

import torch

from engine.errors import TrainingError, WeightsError
from engine.training.settings.parts import ModelSettings
from engine.weights import weights_errors
from models.image_encoder import ImageTower, load_image_tower
from models.presets import Preset
from models.weights.folder import IMAGE_ENCODER, Manifest, load_tower, save_weights


def training_tower(config: ModelSettings, preset: Preset) -> ImageTower | None:
    """The tower of the settings; None where the preset takes no tokens.

    Raises:
        TrainingError: the settings name none.
        WeightsError: the folder holds none, or one whose tokens are of another width.
    """
    width = preset.denoiser.image_token_width
    if width is None:
        return None
    if config.image_encoder is None:
        raise TrainingError(
            f"preset {preset.name} attends to image tokens of width {width}: give image_encoder, "
            "the folder of a vision tower"
        )
    with weights_errors():
        tower = load_image_tower(config.image_encoder)
    if tower.token_width != width:
        raise WeightsError(
            f"{config.image_encoder}: tokens of width {tower.token_width}, but the denoiser is to "
            f"take {width}; set its image_token_width, or give another tower"
        )
    return tower


def check_tower(config: ModelSettings, manifest: Manifest, folder: Path) -> None:
    """Refuse another tower than the one that an earlier stage left in `folder`.

    Raises:
        TrainingError, WeightsError: see `training_tower`; or the two differ.
    """
    tower = training_tower(config, manifest.preset)
    if tower is None or manifest.image_encoder is None:
        return
    with weights_errors():
        earlier = load_tower(folder, manifest)
    assert earlier is not None
    state, wanted = tower.state_dict(), earlier.state_dict()
    same = state.keys() == wanted.keys() and all(torch.equal(state[k], wanted[k]) for k in wanted)
    if not same or tower.spec != earlier.spec:
        raise WeightsError(
            f"{config.image_encoder}: not the vision tower that {folder} was trained with; give "
            "that one as image_encoder"
        )


def keep_tower(config: ModelSettings, manifest: Manifest, folder: Path) -> Manifest:
    """Write the tower into a weights folder, and its architecture into the manifest."""
    tower = training_tower(config, manifest.preset)
    if tower is None:
        return manifest
    save_weights(folder / IMAGE_ENCODER, tower.state_dict(), torch.float32)
    return manifest.model_copy(update={"image_encoder": tower.spec})
