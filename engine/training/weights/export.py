"""From a finished stage to a weights folder: EMA tensors, measured latents, manifest, card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.errors import TrainingError
from engine.storage.durable import flush_tree
from engine.training.config import TrainConfig
from engine.training.optimisation.batching import Batching
from engine.training.optimisation.ema import Ema
from engine.training.optimisation.pace import Pace
from engine.training.stages.base import StageModel
from engine.training.weights.card import write_card
from models.weights.folder import Manifest, read_manifest, save_weights, write_manifest


def export_stage(
    stage: StageModel, ema: Ema, manifest: Manifest, config: TrainConfig, measured: dict[str, Any]
) -> None:
    """Write the stage's EMA weights, its settings and its entry in the folder's manifest.

    All of it is on the disk and was read back when this returns: then checkpoints may go.

    Raises:
        TrainingError: the folder cannot be written or reads back otherwise; the checkpoints, from
            which the same command goes on, are untouched.
    """
    state = stage.finished_state(ema)
    try:
        config.weights.mkdir(parents=True, exist_ok=True)
        save_weights(config.weights / stage.weights_file, state)
        manifest = stage.write_beside(manifest)
        _write_settings(config)
        recommended = stage.recommended(int(measured["iterations"]))
        entry = {**measured, **stage.record(), **_entry(config), **recommended}
        stages = {**manifest.stages, config.stage: entry}
        update = {"stages": stages, **recommended}
        write_manifest(config.weights, manifest.model_copy(update=update))
        write_card(config.weights)
        flush_tree(config.weights)
    except OSError as error:
        raise TrainingError(
            f"{config.weights}: the weights cannot be written ({error}); free some space and start "
            "the same command again, it goes on from its last checkpoint"
        ) from None


def measurements(
    stage: StageModel, batching: Batching, pace: Pace, losses: list[float]
) -> dict[str, Any]:
    """What a finished stage tells about itself."""
    return {
        "iterations": pace.step,
        "seconds": round(pace.elapsed_s, 1),
        "loss": round(float(np.mean(losses[-200:])), 5) if losses else None,
        "num_cases": stage.num_cases,
        "num_skipped": stage.num_skipped,
        "missing_classes": list(stage.missing_classes),
        "num_parameters": sum(p.numel() for p in stage.net.parameters()),
        "num_trained": sum(p.numel() for p in stage.net.parameters() if p.requires_grad),
        "batch_size": batching.micro,
        "examples_per_step": batching.examples,
        "num_workers": batching.world,
    }


def losses_file(config: TrainConfig) -> Path:
    """The loss of every step of a finished stage, a number a line."""
    return config.work / "progress" / f"{config.stage}_losses.txt"


def write_losses(config: TrainConfig, losses: list[float]) -> None:
    """Write the loss curve, interruptions and all."""
    path = losses_file(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{loss:.9g}\n" for loss in losses), encoding="utf-8")


def read_stage_entry(config: TrainConfig) -> dict[str, Any]:
    """What the finished stage wrote into the manifest about itself."""
    return dict(read_manifest(config.weights).stages[config.stage])


def _entry(config: TrainConfig) -> dict[str, Any]:
    return {
        "learning_rate": config.learning_rate,
        "precision": config.precision,
        "seed": config.seed,
        "splits": list(config.splits),
        "holdout": list(config.holdout),
        "about": config.about,
    }


def _write_settings(config: TrainConfig) -> None:
    """The resolved settings, from which the stage can be trained again."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    path = config.weights / f"train_{config.stage}.yaml"
    staged = path.with_suffix(".new")
    staged.write_text(text, encoding="utf-8")
    staged.replace(path)
