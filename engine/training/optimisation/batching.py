"""Which worker takes which examples of a step, and how many it can hold at once.

A step's examples are numbered; their numbers, not the workers, decide what they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engine.errors import TrainingError
from engine.log import get_logger
from engine.memory import is_out_of_memory
from engine.training.settings.parts import BatchSettings

log = get_logger(__name__)

MAX_MICRO = 256
_WORTH = 1.05  # a doubled micro-batch must be this much faster an example


@dataclass(frozen=True)
class Batching:
    """How a step's examples are divided.

    Attributes:
        micro: examples that a worker holds at once.
        accumulate: micro-batches a worker and step.
        world: workers.
    """

    micro: int
    accumulate: int
    world: int

    @property
    def examples(self) -> int:
        """Examples of a step over all workers."""
        return self.micro * self.accumulate * self.world

    def indices(self, rank: int, part: int) -> range:
        """Numbers of the examples in micro-batch `part` of worker `rank`."""
        first = (part * self.world + rank) * self.micro
        return range(first, first + self.micro)


def divide(micro: int, wanted: int | None, world: int) -> Batching:
    """Reach `wanted` examples a step by accumulation.

    Args:
        micro: largest micro-batch; made smaller where it does not divide a worker's share.
        wanted: examples a step over all workers; None is one micro-batch a worker.
        world: workers.

    Raises:
        TrainingError: the workers cannot share that many examples evenly.
    """
    if wanted is None:
        return Batching(micro, 1, world)
    if wanted % world:
        raise TrainingError(
            f"{wanted} examples a step cannot be shared evenly by {world} workers; give a "
            "global_batch_size that they divide, or another number of workers"
        )
    share = wanted // world
    micro = max(m for m in range(1, min(micro, share) + 1) if share % m == 0)
    return Batching(micro, share // micro, world)


def find_micro_batch(
    trial: Callable[[int], None],
    limit: int = MAX_MICRO,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """The micro-batch with the most examples a second among 1, 2, 4 ...

    Args:
        trial: forward and backward pass of that many examples.
        limit: largest to try.
        clock: in seconds.

    Raises:
        TrainingError: not even one example fits.
    """
    best, best_rate, size = 0, 0.0, 1
    while size <= limit:
        try:
            trial(size)  # allocates; the second one is timed
            started = clock()
            trial(size)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.info("micro-batch %d does not fit", size)
            break
        rate = size / (clock() - started)
        log.info("micro-batch %d: %.2f examples/s", size, rate)
        if best and rate < _WORTH * best_rate:
            break
        best, best_rate, size = size, rate, 2 * size
    if not best:
        raise TrainingError(
            "not even one example fits into memory; use a smaller preset, "
            "activation_checkpointing, or float16"
        )
    return best


def resolve_batching(
    config: BatchSettings, earlier: int | None, world: int, trial: Callable[[int], None]
) -> Batching:
    """The batching of a run.

    Args:
        config: of the stage.
        earlier: examples a step of the checkpoint that is resumed; kept, so that another number of
            workers goes on with the same training.
        world: workers.
        trial: see `find_micro_batch`; for batch_size auto.

    Raises:
        TrainingError: see `divide`; or a global_batch_size other than the checkpoint's.
    """
    wanted = config.global_batch_size or earlier
    if earlier is not None and wanted != earlier:
        raise TrainingError(
            f"the checkpoint has {earlier} examples a step, global_batch_size says {wanted}; "
            "leave it out, or give another work folder"
        )
    if config.batch_size != "auto":
        return divide(config.batch_size, wanted, world)
    limit = MAX_MICRO if wanted is None else max(1, wanted // world)
    return divide(_agreed(find_micro_batch(trial, limit), world), wanted, world)


def checkpoint_activations(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Make modules of these kinds keep their inputs only, and compute again going backwards."""

    def again(module: nn.Module) -> None:
        forward: Callable[..., Any] = module.forward

        def recompute(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return torch.utils.checkpoint.checkpoint(forward, *args, use_reentrant=False, **kwargs)

        module.forward = recompute

    for module in net.modules():
        if isinstance(module, kinds):
            again(module)


def _agreed(micro: int, world: int) -> int:
    """The smallest over all workers."""
    if world == 1:
        return micro
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    value = torch.tensor([micro], device=device)
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MIN)
    return int(value)
