"""Exponential moving average of weights, by half-life in steps. Inference uses only this."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Averaged copy of a model's trained parameters, in float32.

    Frozen parameters and buffers do not move, so they are not kept twice.
    """

    def __init__(self, model: nn.Module, half_life: int) -> None:
        self.target_decay = 0.5 ** (1.0 / half_life)
        self.state = {
            name: p.detach().clone().float()
            for name, p in model.named_parameters()
            if p.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Fold in the weights after optimiser step `step` (counted from 1)."""
        decay = min(self.target_decay, (1.0 + step) / (10.0 + step))
        averaged, current = [], []
        for name, parameter in model.named_parameters():
            if name in self.state:
                averaged.append(self.state[name])
                current.append(parameter.detach().float())
        torch._foreach_lerp_(averaged, current, 1.0 - decay)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a stored average."""
        for name, value in state.items():
            self.state[name].copy_(value)

    def full_state(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's whole state with averaged weights in place of trained ones."""
        return {**model.state_dict(), **self.state}

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The average in the model's place, for looking at what it does."""
        trained = {n: p for n, p in model.named_parameters() if n in self.state}
        kept = {name: p.detach().clone() for name, p in trained.items()}
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(self.state[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(kept[name])
