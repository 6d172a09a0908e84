"""A small random model and requests for it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.sampling.config import SamplingConfig
from engine.sampling.diffusion.schedule import ScheduleConfig
from engine.sampling.request import SampleRequest
from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser
from models.presets import PRESETS, Preset
from models.weights.folder import AUTOENCODER, DENOISER, Manifest, save_weights, write_manifest

EDGE, WINDOW = 32, 6


def tiny() -> Preset:
    demo = PRESETS["demo"]
    denoiser = demo.denoiser.model_copy(
        update={"base_channels": 32, "multipliers": (1, 1), "attention_px": (4,)}
    )
    return demo.model_copy(update={"size_px": EDGE, "window": WINDOW, "denoiser": denoiser})


def write_tiny(folder: Path) -> Path:
    manifest = Manifest(
        preset=tiny(),
        num_classes=2,
        class_names=("organ", "body"),
        schedule=ScheduleConfig(zero_terminal_snr=True, prediction_type="v").model_dump(),
        spacing_mm_yx=3.0,
        modality="ct",
    )
    torch.manual_seed(0)
    denoiser = Denoiser(manifest.preset, 2)
    for parameter in denoiser.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    write_manifest(folder, manifest)
    save_weights(folder / AUTOENCODER, Autoencoder(manifest.preset.autoencoder).state_dict())
    save_weights(folder / DENOISER, denoiser.state_dict())
    return folder


def request(num_slices: int = 15, **changes: Any) -> SampleRequest:
    mask = np.zeros((num_slices, EDGE, EDGE), dtype=np.uint8)
    mask[:, 8:24, 8:24] = 2
    mask[3:9, 12:18, 12:18] = 1
    informed = np.linspace(-1, 1, EDGE * EDGE, dtype=np.float32).reshape(EDGE, EDGE)
    fields: dict[str, Any] = {"sample_id": "s", "seed": 7, "mask": mask, "informed": informed}
    fields["informed_mask"] = mask[num_slices // 2]
    return SampleRequest(**{**fields, "informed_position": 0.5, **changes})


FAST = SamplingConfig(num_inference_steps=2, overlap=2, precision="float32")
