"""What the workers of a training agree on: means, and what the first of them decides."""

from __future__ import annotations

import torch
from torch import Tensor


class Workers:
    """The process group of a training, if there is one.

    Args:
        rank: of this worker.
        use_gpu: whether the group communicates tensors of GPUs.
    """

    def __init__(self, rank: int, use_gpu: bool) -> None:
        self.rank, self.device = rank, "cuda" if use_gpu else "cpu"
        grouped = torch.distributed.is_initialized()
        self.world = torch.distributed.get_world_size() if grouped else 1

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a scalar over all workers, in float64; nobody waits for it here."""
        total = value.detach().double()
        if self.world > 1:
            total = total.clone()
            torch.distributed.all_reduce(total)
        return total / self.world

    def first(self, value: float) -> float:
        """The first worker's value, on all of them."""
        if self.world == 1:
            return value
        sent = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(sent, 0)
        return float(sent)

    def wait(self) -> None:
        """Until all workers are here."""
        if self.world > 1:
            torch.distributed.barrier()
