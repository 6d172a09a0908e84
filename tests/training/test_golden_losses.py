"""Ten training steps of every stage have the losses that were recorded."""

from pathlib import Path
from typing import Any

import pytest

from engine.training.config import TrainConfig
from engine.training.loop.training import run_stage
from engine.training.stages.survey import resolve_preset
from engine.training.weights.export import losses_file
from tests.golden.compare import check_golden
from tests.golden.models import NARROW, WAYS, write_model
from tests.training.conftest import MakeConfig

CLASSES = ("liver", "kidney", "spleen", "pancreas", "body")
TOLERANCE = 1e-4
STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoder": ("concatenate", {"squared_weight": 0.5}),
    "decoder": ("concatenate", {}),
    "slice": ("concatenate", {"condition_dropout": 0.3, "batch_size": 2}),
    "slice, controlnet, grey": ("grey_controlnet", {"condition_dropout": 0.3}),
    "slice, attention": ("image_attention", {"class_weight": {"pancreas": 2.0}}),
    "volume": ("concatenate", {"slice_gradient_weight": 0.5, "high_noise_share": 0.3}),
    "volume, paper": ("paper", {"tune": "all", "loss_weighting": "min_snr"}),
    "volume, accumulated": ("concatenate", {"global_batch_size": 2, "num_augmented": 1}),
    "position": ("concatenate", {"timesteps": "logit_normal"}),
    "distill": ("concatenate", {"distill_start": 4, "distill_steps": 2}),
}


def config_of(name: str, make_config: MakeConfig, folder: Path) -> TrainConfig:
    """Settings of a stage, and the weights that it goes on from."""
    stage, (way, changes) = name.partition(",")[0], STAGES[name]
    fields = {"num_iterations": 10, "learning_rate": 1e-3, **changes}
    if stage in ("autoencoder", "distill"):
        fields["start_from"] = folder / "before"
    denoiser = {**NARROW, **WAYS[way]}
    config = make_config(folder, stage=stage, denoiser=denoiser, **fields)
    before = config.start_from or config.weights
    write_model(before, resolve_preset(config), "v", CLASSES, ("autoencoder", "slice"))
    return config


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("name", STAGES)
def test_losses(name: str, make_config: MakeConfig, tmp_path: Path) -> None:
    config = config_of(name, make_config, tmp_path)
    run_stage(config)
    lines = losses_file(config).read_text().splitlines()
    check_golden(f"losses, {name}", [float(line) for line in lines], TOLERANCE)
