"""Exponential moving average of weights, by half-life in steps. Inference uses only this."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ema:
    """Averaged copy of a model's parameters and buffers, in float32."""

    def __init__(self, model: nn.Module, half_life: int) -> None:
        self.target_decay = 0.5 ** (1.0 / half_life)
        self.state = {k: v.detach().clone().float() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Fold in the weights after optimiser step `step` (counted from 1)."""
        decay = min(self.target_decay, (1.0 + step) / (10.0 + step))
        for name, value in model.state_dict().items():
            self.state[name].lerp_(value.detach().float(), 1.0 - decay)

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a stored average."""
        self.state = {name: value.float() for name, value in state.items()}
