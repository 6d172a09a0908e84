"""Losses and gradient norms of the last steps, looked at several at a time.

A look makes the host wait for the GPU. Between looks it prepares the next steps. Nothing is written
before a look, so that a step that went wrong reaches no checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LOOK_EVERY_ON_GPU = 16


class Outcomes:
    """Steps that nobody has looked at yet.

    Args:
        look_every: steps between looks.
        not_finite: makes the error of a step whose loss or gradient is not finite.
        skips: whether a gradient that is not finite only skips its step (float16).
    """

    def __init__(
        self,
        look_every: int,
        not_finite: Callable[[str, float, int], Exception],
        *,
        skips: bool,
    ) -> None:
        self.look_every, self._not_finite, self._skips = look_every, not_finite, skips
        self._steps: list[int] = []
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self.norm = math.nan

    def put(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Keep the scalars of a step that is done (counted from 1)."""
        self._steps.append(step)
        self._losses.append(loss)
        self._norms.append(norm)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        return len(self._steps) >= self.look_every

    def look(self) -> list[float]:
        """Losses of the steps since the last look, in order; `norm` is that of the last one.

        Raises:
            TrainingError: a loss or a gradient was not finite.
        """
        if not self._steps:
            return []
        both = torch.stack([*self._losses, *(n.to(self._losses[0]) for n in self._norms)])
        values = both.double().tolist()
        steps, count = self._steps, len(self._steps)
        self._steps, self._losses, self._norms = [], [], []
        losses, norms = values[:count], values[count:]
        for step, loss, norm in zip(steps, losses, norms, strict=True):
            if not math.isfinite(loss):
                raise self._not_finite("loss", loss, step)
            if not self._skips and not math.isfinite(norm):
                raise self._not_finite("gradient", norm, step)
        self.norm = norms[-1]
        return [float(loss) for loss in losses]
