"""Small models of every conditioning, whose weights are filled by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser
from models.image_encoder import ImageTower
from models.presets import PRESETS, DenoiserSpec, Preset, TowerSpec
from models.weights.folder import (
    AUTOENCODER,
    DENOISER,
    IMAGE_ENCODER,
    Manifest,
    save_weights,
    write_manifest,
)
from tests.golden.compare import seed_of

EDGE, WINDOW = 32, 6
NARROW: dict[str, Any] = {"base_channels": 32, "multipliers": (1, 1), "attention_px": (4,)}
TOWER = TowerSpec(
    hidden_size=32, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, image_size=32, patch_size=16,
)  # fmt: skip
TRAINED: dict[str, Any] = {
    "condition_dropout": 0.1, "iterations": 1, "seconds": 1.0, "batch_size": 1,
    "num_cases": 1, "num_parameters": 1, "loss": 1.0, "learning_rate": 1e-3,
    "precision": "float32", "seed": 0,
    "holdout": [], "num_workers": 1,
}  # fmt: skip
GREY = {"mask_encoding": "grey_vae", "mask_subpixels": 1, "class_intensity_input": False}
BARE = {"position_embedding": False, "style_embedding": False, "fade_noisy_input": False}
WAYS: dict[str, dict[str, Any]] = {
    "concatenate": {},
    "controlnet": {"conditioning": "controlnet"},
    "image_attention": {"conditioning": "image_attention"},
    "tower": {"conditioning": "image_attention", "image_token_width": 32},
    "grey": GREY,
    "grey_controlnet": {**GREY, "conditioning": "controlnet"},
    "paper": {**GREY, **BARE, "known_slice_input": False},
    "public": {
        **GREY, **BARE, "known_slice_input": False, "layout": "openai", "slice_position": False,
    },
}  # fmt: skip
SCHEDULES = {
    "v": {"zero_terminal_snr": True, "prediction_type": "v"},
    "eps": {"prediction_type": "eps"},
    "flow": {"kind": "flow", "prediction_type": "flow"},
}


def preset_of(way: str) -> Preset:
    """The demo's architecture, narrow and of few pixels, with another conditioning."""
    demo = PRESETS["demo"]
    spec = DenoiserSpec.model_validate({**demo.denoiser.model_dump(), **NARROW, **WAYS[way]})
    return demo.model_copy(update={"size_px": EDGE, "window": WINDOW, "denoiser": spec})


def filled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of a state drawn by its name; statistics and scales stay as they are."""
    drawn = {}
    for name, value in state.items():
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed_of(name)))
        if value.ndim >= 2:
            drawn[name] = noise * (0.8 / value[0].numel() ** 0.5)
        elif value.ndim == 1 and name.endswith("weight"):
            drawn[name] = 1.0 + 0.1 * noise
        elif value.ndim == 1 and name.endswith(("bias", "embedding")):
            drawn[name] = 0.05 * noise
        else:
            drawn[name] = value.clone()
    return drawn


def write_model(
    folder: Path,
    preset: Preset,
    schedule: str = "v",
    classes: tuple[str, ...] = ("organ", "body"),
    stages: tuple[str, ...] = ("volume",),
) -> Path:
    """A weights folder; its stages were trained with condition dropout, as far as it says."""
    takes_tower = preset.denoiser.image_token_width is not None
    manifest = Manifest(
        preset=preset,
        num_classes=len(classes),
        class_names=classes,
        schedule=SCHEDULES[schedule],
        spacing_mm_yx=3.0,
        modality="ct",
        image_encoder=TOWER if takes_tower else None,
        stages=dict.fromkeys(stages, TRAINED),
    )
    write_manifest(folder, manifest)
    networks: dict[str, torch.nn.Module] = {
        AUTOENCODER: Autoencoder(preset.autoencoder),
        DENOISER: Denoiser(preset, len(classes)),
    }
    if takes_tower:
        networks[IMAGE_ENCODER] = ImageTower(TOWER)
    for name, network in networks.items():
        save_weights(folder / name, filled(network.state_dict()), torch.float32)
    return folder
