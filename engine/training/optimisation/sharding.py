"""The optimiser on DeepSpeed, and its state as whole tensors, however ZeRO has divided it.

A gathered state does not know how many workers made it, so any number can go on from it. Only
this file knows DeepSpeed's insides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.training.optimisation.batching import Batching
from engine.training.optimisation.precision import LossScale, LossScaleOnGpu
from engine.training.settings.parts import MachineSettings, OptimiserSettings

MOMENTS = ("exp_avg", "exp_avg_sq")
_STEP = "optimizer_step"


def start_deepspeed(
    stage: nn.Module, settings: OptimiserSettings, machine: MachineSettings, batching: Batching
) -> Any:
    """A DeepSpeed engine whose optimiser holds the trained parameters only.

    Args:
        stage: network and loss.
        settings: of the optimiser.
        machine: what it runs on.
        batching: examples of a micro-batch, and micro-batches a step and worker.
    """
    import deepspeed
    from deepspeed.ops import __compatible_ops__ as compatible_ops

    if not machine.use_gpu:
        # Gloo serves the CPU; the shared-memory extension would need a compiler at first use.
        compatible_ops["deepspeed_shm_comm"] = False
    trained = [p for p in stage.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=settings.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
        fused=machine.use_gpu,
    )
    wanted = {
        "train_micro_batch_size_per_gpu": batching.micro,
        "gradient_accumulation_steps": batching.accumulate,
        "gradient_clipping": settings.grad_clip if machine.zero_stage else 0.0,  # see `take_step`
        "zero_optimization": {"stage": machine.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    deepspeed.init_distributed(
        dist_backend="nccl" if machine.use_gpu else "gloo", verbose=False, auto_mpi_discovery=False
    )
    engine, *_ = deepspeed.initialize(
        model=stage, optimizer=optimizer, model_parameters=trained, config=wanted
    )
    return engine


def backward(engine: Any, loss: Tensor, scale: LossScale) -> None:
    """Add the gradient of a micro-batch, scaled against underflow."""
    if scale.dynamic and engine.zero_optimization():
        engine.optimizer.override_loss_scale(scale.scale)
        engine.backward(loss)
    else:
        engine.backward(scale.scaled(loss))


def take_step(engine: Any, grad_clip: float, scale: LossScale) -> Tensor:
    """End a micro-batch; at the last one clip and step. An overflow of float16 skips the step.

    Without ZeRO, and but for float16 on a CPU, the host waits for nothing.

    Returns:
        Norm of the unscaled gradient before clipping, a scalar; not finite when the step was
        skipped.
    """
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return torch.zeros(())
    if engine.zero_optimization():
        engine.step()
        overflow = bool(engine.optimizer.overflow)
        norm = torch.as_tensor(math.nan if overflow else engine.get_global_grad_norm() or 0.0)
        scale.update(overflow=overflow)
        return norm.float()
    if isinstance(scale, LossScaleOnGpu):
        return _step_on_gpu(engine, grad_clip, scale)
    norm = _unscale_and_clip(engine, grad_clip, scale)
    engine.step()
    if scale.dynamic:
        scale.update(overflow=not bool(torch.isfinite(norm)))
    return norm


def gather_state(engine: Any, net: nn.Module) -> dict[str, Tensor]:
    """Weights, buffers and AdamW's moments as whole CPU tensors; every worker calls this."""
    tensors = {f"net/{name}": cpu_copy(value) for name, value in net.state_dict().items()}
    for name, parameter in _trained(net):
        for key in MOMENTS:
            moment = _moment(engine, parameter, key)
            if moment is not None:
                tensors[f"{key}/{name}"] = cpu_copy(moment)
    tensors[_STEP] = torch.tensor(_optimizer_step(engine))
    return tensors


def cpu_copy(value: Tensor) -> Tensor:
    """A plainly laid out copy in CPU memory, which training does not change any more."""
    return value.detach().to("cpu", copy=True).contiguous()


def scatter_state(engine: Any, net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `gather_state` gave, whatever the number of workers was."""
    net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net/")})
    step = float(tensors[_STEP])
    if engine.zero_optimization():
        engine.optimizer.refresh_fp32_params()
        _fill_partitions(engine.optimizer, step)
    for name, parameter in _trained(net):
        moments = {k: tensors[f"{k}/{name}"] for k in MOMENTS if f"{k}/{name}" in tensors}
        if engine.zero_optimization():
            from deepspeed.utils import safe_set_full_optimizer_state

            for key, value in moments.items():
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
        elif moments:
            own = {key: value.to(parameter.device).clone() for key, value in moments.items()}
            count = _step_count(engine.optimizer, parameter, step)
            engine.optimizer.state[parameter] = {"step": count, **own}


def _unscale_and_clip(engine: Any, grad_clip: float, scale: LossScale) -> Tensor:
    """Without ZeRO, gradients are whole here and already averaged over the workers."""
    parameters = [p for p in engine.module.parameters() if p.grad is not None]
    if scale.dynamic:
        torch._foreach_mul_([p.grad for p in parameters], 1.0 / scale.scale)
    norm = torch.nn.utils.clip_grad_norm_(parameters, grad_clip)
    if scale.dynamic and not bool(torch.isfinite(norm)):
        for parameter in parameters:
            parameter.grad = None  # AdamW then leaves weights and moments alone
    return norm  # where it is not finite otherwise, neither is the loss, which ends the training


def _step_on_gpu(engine: Any, grad_clip: float, scale: LossScaleOnGpu) -> Tensor:
    """Without ZeRO, in float16: the fused AdamW itself skips a step that overflowed."""
    parameters = [p for p in engine.module.parameters() if p.grad is not None]
    torch._foreach_mul_([p.grad for p in parameters], scale.inverse)
    norm = torch.nn.utils.clip_grad_norm_(parameters, grad_clip)
    scale.learn(norm)
    engine.optimizer.found_inf = scale.overflow
    engine.step()
    return norm


def _trained(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in net.named_parameters() if p.requires_grad]


def _moment(engine: Any, parameter: nn.Parameter, key: str) -> Tensor | None:
    if engine.zero_optimization():
        from deepspeed.utils import safe_get_full_optimizer_state

        if not _optimizer_step(engine):
            return None
        moment: Tensor | None = safe_get_full_optimizer_state(parameter, key)
        return moment
    state: dict[str, Tensor] = engine.optimizer.state.get(parameter, {})
    return state.get(key)


def _optimizer_step(engine: Any) -> float:
    states = list(engine.optimizer.state.values())
    return float(states[0]["step"]) if states and "step" in states[0] else 0.0


def _step_count(optimizer: Any, parameter: Tensor, step: float) -> Tensor:
    """Where AdamW keeps its count: beside the parameter when it is fused."""
    fused = bool(optimizer.param_groups[0].get("fused"))
    return torch.tensor(step, device=parameter.device if fused else "cpu")


def _fill_partitions(zero: Any, step: float) -> None:
    """Give each worker's flat partition the states that AdamW makes at its first step."""
    for flat in zero.single_partition_of_fp32_groups:
        zero.optimizer.state[flat] = {
            "step": _step_count(zero.optimizer, flat, step),
            **{key: torch.zeros_like(flat) for key in MOMENTS},
        }
    zero._lazy_init_hp_params_optimizer_state()
