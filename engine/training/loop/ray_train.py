"""Where training meets the cluster: Ray Train starts the workers and starts lost ones again.

The same stage runs on two CPU cores and on a cluster of GPUs. What a worker then does stands in
training.py; a single worker on this computer needs no Ray (here.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from engine.errors import EngineError, TrainingError
from engine.log import show_log
from engine.paths import resolve_paths
from engine.training.config import TrainConfig
from engine.training.loop.check import keep_private
from engine.training.loop.checkpoint import discard_checkpoints
from engine.training.loop.ray_cache import fill_on_ray
from engine.training.loop.training import run_stage
from engine.training.stages.base import Survey
from engine.training.stages.survey import survey
from engine.training.weights.export import read_stage_entry

MAX_FAILURES = 3


def train_stage(start: TrainConfig | Survey) -> dict[str, Any]:
    """Run one stage to its end; resumes from the work folder's last whole checkpoint.

    Args:
        start: the stage's survey (`check_stage`), or the settings to make one from.

    Returns:
        Measurements of the stage: iterations, seconds, final loss.

    Raises:
        TrainingError: bad data, other settings than the checkpoint's, or a loss that is not finite.
    """
    # Ray Train moves its workers to a folder of its own, so paths are absolute
    found = start if isinstance(start, Survey) else survey(resolve_paths(start))
    config = found.config
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if config.use_gpu else "cpu")
    trainer = _trainer(found)
    config.work.mkdir(parents=True, exist_ok=True)
    _refusal(config).unlink(missing_ok=True)
    fill_cache(found)
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(_first_engine_error(error)) from error
    if _refusal(config).exists():
        raise TrainingError(_refusal(config).read_text(encoding="utf-8"))
    discard_checkpoints(config)
    return read_stage_entry(config)


def _trainer(found: Survey) -> TorchTrainer:
    config = found.config
    resources = {"CPU": 1.0, **({"GPU": 1.0} if config.use_gpu else {})}
    return TorchTrainer(
        _worker,
        train_loop_config={"survey": found},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        run_config=RunConfig(
            name=config.stage,
            storage_path=str((config.work / "ray").resolve()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )


def fill_cache(found: Survey) -> None:
    """Make what the stage trains on before its workers start; a second run makes nothing."""
    plan, use_gpu = found.plan, found.config.use_gpu
    if not plan.missing():
        return
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    count = int(resources.get("GPU" if use_gpu else "CPU", 1))
    fill_on_ray(plan, count if use_gpu else max(1, count - 1), found.config.private)


def _worker(raw: dict[str, Any]) -> None:
    """One Ray Train worker."""
    show_log()
    found: Survey = raw["survey"]
    keep_private(found.config)
    context = ray.train.get_context()
    try:
        measured = run_stage(found, context.get_world_rank(), context.get_local_world_size())
    except EngineError as error:
        if context.get_world_size() > 1:
            raise  # the other workers wait for this one; Ray Train has to end them
        _refusal(found.config).write_text(str(error), encoding="utf-8")
        return  # trying again would end the same way
    ray.train.report(measured)


def _refusal(config: TrainConfig) -> Path:
    return config.work / "refusal.txt"


def _first_engine_error(error: BaseException) -> str:
    """The message a user can act on, from inside Ray Train's wrapping."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, EngineError):
            return str(seen)
        for inner in getattr(seen, "worker_failures", {}).values():
            if isinstance(inner, BaseException):
                return _first_engine_error(inner)
        seen = getattr(seen, "cause", None) or seen.__cause__
    return str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
