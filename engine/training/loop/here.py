"""A stage with one worker on this computer: in this process, without the time that Ray takes.

A worker that is killed is not started again here; the same command goes on from its checkpoint.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from engine.parallel.computer.address import is_local
from engine.training.config import TrainConfig
from engine.training.loop.check import keep_private
from engine.training.loop.checkpoint import discard_checkpoints
from engine.training.loop.training import run_stage
from engine.training.stages.base import Survey
from engine.training.weights.export import read_stage_entry

_FEW = 16


def fits_one_process(config: TrainConfig) -> bool:
    """Whether a stage needs no other process: one worker, and no cluster that was asked for."""
    return config.num_workers == 1 and is_local(os.environ.get("RAY_ADDRESS"))


def has_much_to_cache(found: Survey) -> bool:
    """Whether making the cache is worth starting Ray for."""
    return len(found.plan.missing()) > _FEW


def train_here(found: Survey) -> dict[str, Any]:
    """Run one stage to its end in this process; resumes from its last whole checkpoint.

    Args:
        found: of `check_stage`.

    Returns:
        Measurements of the stage: iterations, seconds, final loss.

    Raises:
        TrainingError: bad data, other settings than the checkpoint's, or a loss that is not finite.
    """
    config = found.config
    keep_private(config)
    with group_of_one("cuda" if config.use_gpu else "cpu"):
        run_stage(found)
    discard_checkpoints(config)
    return read_stage_entry(config)


@contextmanager
def group_of_one(device: str) -> Iterator[None]:
    """What DeepSpeed asks for where there is one worker; a group that is there already serves."""
    if torch.distributed.is_initialized():
        yield
        return
    names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    names["DS_ACCELERATOR"] = os.environ.get("DS_ACCELERATOR", device)
    backend = "nccl" if device == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as place, patch.dict(os.environ, names):
        store = f"file://{Path(place) / 'group'}"
        torch.distributed.init_process_group(backend, init_method=store, rank=0, world_size=1)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()
