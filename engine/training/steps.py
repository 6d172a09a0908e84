"""One worker's steps: build the stage, resume, step until done, export.

DeepSpeed makes the steps; a process group exists by then. Knows neither Ray nor what a stage
learns (stages.py).
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from engine.errors import TrainingError
from engine.log import get_logger
from engine.training.checkpoint import load_checkpoint, save_checkpoint
from engine.training.config import TrainConfig
from engine.training.ema import Ema
from engine.training.export import export_stage
from engine.training.progress import Pace, learning_rate_factor
from engine.training.stages import AnyStage, build_stage
from models.denoiser import Denoiser, to_channels_last

log = get_logger(__name__)
LOG_EVERY_S = 15.0


def run_stage(config: TrainConfig, rank: int = 0, num_local_workers: int = 1) -> dict[str, Any]:
    """Train one stage in this process and, on rank 0, write its weights.

    Args:
        config: the stage.
        rank: of this worker among all.
        num_local_workers: workers that share this machine's cores.

    Returns:
        What was measured: iterations, seconds, loss, cases, parameters.
    """
    cores = os.cpu_count() or 1
    torch.set_num_threads(config.threads or max(1, cores // num_local_workers))
    stage, manifest = build_stage(config, seed=config.seed * 1000 + rank)
    generator = torch.Generator().manual_seed(config.seed * 1000 + rank + 500_000)
    engine = _deepspeed(stage, config)
    if isinstance(stage.net, Denoiser):
        to_channels_last(stage.net)  # not before: DeepSpeed's broadcast wants contiguous weights
    ema = Ema(stage.net, config.ema_half_life)
    pace = Pace(config.num_iterations, config.max_minutes)
    _resume(engine, stage, ema, pace, generator, config)
    writer = SummaryWriter(config.work / "tensorboard" / config.stage) if rank == 0 else None
    losses = _steps(engine, stage, ema, pace, generator, config, writer)
    measured = {
        "iterations": pace.step,
        "seconds": round(pace.elapsed_s, 1),
        "loss": round(float(np.mean(losses[-200:])), 5) if losses else None,
        "num_cases": len(stage.data.draw.weights),
        "num_parameters": sum(p.numel() for p in stage.net.parameters()),
    }
    if rank == 0:
        export_stage(stage, ema, manifest, config, measured)
    return measured


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
