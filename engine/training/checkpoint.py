"""Checkpoints of a stage: whole or not at all, the last two kept, the newest whole one resumed.

DeepSpeed's state is a pickle and is read only from the work folder that this code wrote; what is
published is safetensors (models/weights.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from engine.errors import TrainingError
from engine.training.config import TrainConfig

_DONE = "COMPLETE"
_KEEP = 2
# What may change between a checkpoint and its resume without changing what is learnt.
_FREE = {
    "num_iterations",
    "max_minutes",
    "num_workers",
    "threads",
    "checkpoint_minutes",
    "work",
    "about",
}


def checkpoint_root(config: TrainConfig) -> Path:
    """Folder of the stage's checkpoints."""
    return config.work / "checkpoints" / config.stage


def save_checkpoint(engine: Any, config: TrainConfig, step: int, state: dict[str, Any]) -> None:
    """Write DeepSpeed's state and ours; every rank calls this."""
    root, tag = checkpoint_root(config), f"step_{step:08d}"
    engine.save_checkpoint(
        str(root), tag=tag, client_state={"stage_config": _identity(config), **state}
    )
    if torch.distributed.get_rank() == 0:
        (root / tag / _DONE).write_text(str(step), encoding="utf-8")
        for old in _whole(root)[:-_KEEP]:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(engine: Any, config: TrainConfig) -> dict[str, Any] | None:
    """Restore the newest whole checkpoint into `engine`; our state, or None when there is none.

    Raises:
        TrainingError: the checkpoint belongs to other settings; names them.
    """
    whole = _whole(checkpoint_root(config))
    if not whole:
        return None
    _, state = engine.load_checkpoint(str(whole[-1].parent), tag=whole[-1].name)
    then, now = dict(state.pop("stage_config")), _identity(config)
    changed = sorted(key for key in now if then.get(key) != now[key])
    if changed:
        raise TrainingError(
            f"{whole[-1]}: was made with other settings ({', '.join(changed)}); "
            "restore them, or give another work folder"
        )
    return dict(state)


def discard_checkpoints(config: TrainConfig) -> None:
    """Remove a finished stage's checkpoints."""
    shutil.rmtree(checkpoint_root(config), ignore_errors=True)


def _identity(config: TrainConfig) -> dict[str, Any]:
    return {k: v for k, v in config.model_dump(mode="json").items() if k not in _FREE}


def _whole(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob(f"step_*/{_DONE}"))
