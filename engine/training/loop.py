"""The training loop: Ray Train starts the workers, DeepSpeed makes the steps.

The same loop runs on two CPU cores and on a cluster of GPUs. Knows nothing of what a stage learns
(stages.py). Besides latents.py the only Ray importer of this room.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch.utils.tensorboard import SummaryWriter

from engine.errors import EngineError, TrainingError
from engine.log import get_logger, show_log
from engine.training.checkpoint import (
    discard_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from engine.training.config import TrainConfig
from engine.training.ema import Ema
from engine.training.export import export_stage
from engine.training.progress import Pace, learning_rate_factor
from engine.training.stages import AnyStage, build_stage

log = get_logger(__name__)
LOG_EVERY_S = 15.0


def train_stage(config: TrainConfig) -> dict[str, Any]:
    """Run one stage to its end; resumes from the work folder's last whole checkpoint.

    Returns:
        Measurements of the stage: iterations, seconds, final loss.

    Raises:
        TrainingError: bad data, other settings than the checkpoint's, or a loss that is not finite.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if config.use_gpu else "cpu")
    resources = {"CPU": 1.0, **({"GPU": 1.0} if config.use_gpu else {})}
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config.model_dump(mode="json"),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        run_config=RunConfig(
            name=config.stage,
            storage_path=str((config.work / "ray").resolve()),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(_first_engine_error(error)) from error
    discard_checkpoints(config)
    return dict(result.metrics or {})


def _worker(raw: dict[str, Any]) -> None:
    """One Ray Train worker: build, resume, step until done, export."""
    show_log()
    config = TrainConfig.model_validate(raw)
    rank = ray.train.get_context().get_world_rank()
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // config.num_workers))
    stage, manifest = build_stage(config, seed=config.seed * 1000 + rank)
    generator = torch.Generator().manual_seed(config.seed * 1000 + rank + 500_000)
    engine = _deepspeed(stage, config)
    ema = Ema(stage.net, config.ema_half_life)
    pace = Pace(config.num_iterations, config.max_minutes)
    _resume(engine, stage, ema, pace, generator, config)
    writer = SummaryWriter(config.work / "tensorboard" / config.stage) if rank == 0 else None
    losses = _steps(engine, stage, ema, pace, generator, config, writer)
    measured = {
        "iterations": pace.step,
        "seconds": round(pace.elapsed_s, 1),
        "loss": round(float(np.mean(losses[-200:])), 5),
        "num_cases": len(stage.data.draw.weights),
        "num_parameters": sum(p.numel() for p in stage.net.parameters()),
    }
    if rank == 0:
        export_stage(stage, ema, manifest, config, measured)
    ray.train.report(measured)


def _steps(
    engine: Any,
    stage: AnyStage,
    ema: Ema,
    pace: Pace,
    generator: torch.Generator,
    config: TrainConfig,
    writer: SummaryWriter | None,
) -> list[float]:
    losses: list[float] = []
    saved = logged = time.monotonic()
    while not pace.done:
        factor = learning_rate_factor(pace.step, pace.fraction, config.warmup)
        for group in engine.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        loss = engine(generator)
        engine.backward(loss)
        engine.step()
        pace.advance()
        ema.update(stage.net, pace.step)
        losses.append(_finite(float(loss.detach()), pace.step, config))
        now = time.monotonic()
        if writer is not None and (now - logged > LOG_EVERY_S or pace.done):
            _show(writer, pace, losses, engine, config)
            logged = now
        if now - saved > 60.0 * config.checkpoint_minutes:
            save_checkpoint(engine, config, pace.step, _state(stage, ema, pace, generator))
            saved = now
    return losses


def _show(
    writer: SummaryWriter, pace: Pace, losses: list[float], engine: Any, config: TrainConfig
) -> None:
    recent = float(np.mean(losses[-100:]))
    norm = float(engine.get_global_grad_norm() or 0.0)
    writer.add_scalar("loss", recent, pace.step)
    writer.add_scalar("gradient_norm", norm, pace.step)
    writer.add_scalar("steps_per_s", pace.steps_per_s, pace.step)
    writer.add_scalar("learning_rate", engine.optimizer.param_groups[0]["lr"], pace.step)
    log.info(
        "%s: step %d of %d, loss %.4f, %.2f steps/s, %.0f s elapsed, about %.0f s left",
        config.stage, pace.step, config.num_iterations, recent, pace.steps_per_s,
        pace.elapsed_s, pace.left_s,
    )  # fmt: skip


def _finite(loss: float, step: int, config: TrainConfig) -> float:
    if not np.isfinite(loss):
        raise TrainingError(
            f"{config.stage}: loss is {loss} at step {step}; lower learning_rate, or look for "
            f"damaged cases in {config.data}; the last checkpoint is untouched"
        )
    return loss


def _deepspeed(stage: AnyStage, config: TrainConfig) -> Any:
    import deepspeed
    from deepspeed.ops import __compatible_ops__ as compatible_ops

    if not config.use_gpu:
        # Gloo serves the CPU; the shared-memory extension would need a compiler at first use.
        compatible_ops["deepspeed_shm_comm"] = False
    trained = [p for p in stage.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_clipping": config.grad_clip,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    if config.precision != "float32":
        settings["torch_autocast"] = {"enabled": True, "dtype": f"torch.{config.precision}"}
    deepspeed.init_distributed(
        dist_backend="nccl" if config.use_gpu else "gloo", verbose=False, auto_mpi_discovery=False
    )
    engine, *_ = deepspeed.initialize(
        model=stage, optimizer=optimizer, model_parameters=trained, config=settings
    )
    return engine


def _state(stage: AnyStage, ema: Ema, pace: Pace, generator: torch.Generator) -> dict[str, Any]:
    return {
        "step": pace.step,
        "elapsed_s": pace.elapsed_s,
        "ema": ema.state,
        "noise_rng": generator.get_state(),
        "data_rng": stage.data.draw.generator.get_state(),
    }


def _resume(
    engine: Any,
    stage: AnyStage,
    ema: Ema,
    pace: Pace,
    generator: torch.Generator,
    config: TrainConfig,
) -> None:
    state = load_checkpoint(engine, config)
    if state is None:
        return
    pace.resume(state["step"], state["elapsed_s"])
    ema.load(state["ema"])
    generator.set_state(state["noise_rng"])
    stage.data.draw.generator.set_state(state["data_rng"])
    log.info("%s: resumed at step %d", config.stage, pace.step)


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
