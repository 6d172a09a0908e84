"""From a finished stage to a weights folder: EMA tensors, measured latent statistics, manifest."""

from __future__ import annotations

from typing import Any

import torch

from engine.training.card import write_card
from engine.training.config import TrainConfig
from engine.training.ema import Ema
from engine.training.stages import AnyStage, AutoencoderStage
from models.autoencoder import Autoencoder
from models.weights import Manifest, read_manifest, save_weights, write_manifest


def export_stage(
    stage: AnyStage, ema: Ema, manifest: Manifest, config: TrainConfig, measured: dict[str, Any]
) -> None:
    """Write the stage's EMA weights and add the stage to the folder's manifest."""
    state = ema.state
    if isinstance(stage, AutoencoderStage):
        stage.net.load_state_dict(state)
        measure_latents(stage.net, stage)
        state = dict(stage.net.state_dict())
    save_weights(config.weights / stage.weights_file, state)
    entry = {
        **measured,
        "batch_size": config.batch_size,
        "num_workers": config.num_workers,
        "learning_rate": config.learning_rate,
        "precision": config.precision,
        "seed": config.seed,
        "holdout": list(config.holdout),
        "about": config.about,
    }
    stages = {**manifest.stages, config.stage: entry}
    write_manifest(config.weights, manifest.model_copy(update={"stages": stages}))
    write_card(config.weights)


def read_stage_entry(config: TrainConfig) -> dict[str, Any]:
    """What the finished stage wrote into the manifest about itself."""
    return dict(read_manifest(config.weights).stages[config.stage])


@torch.no_grad()
def measure_latents(model: Autoencoder, stage: AutoencoderStage, num_slices: int = 256) -> None:
    """Set the latent scale and offset from posterior means of whole training slices."""
    model.eval()
    draw, means = stage.data.draw, []
    for _ in range(num_slices):
        volume = stage.data.volumes[draw.case()]
        plane = volume[draw.below(len(volume))].float()[None, None]
        means.append(model.net.encode(plane.expand(-1, model.spec.image_channels, -1, -1)))
    values = torch.cat([m.latent_dist.mean for m in means])
    std, mean = torch.std_mean(values, dim=(0, 2, 3))
    model.set_statistics(mean, std)
