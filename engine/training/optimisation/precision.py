"""Number formats of training: autocast around the loss, and the scale that float16 needs.

Weights, gradients and optimiser states stay float32; only the forward pass is narrower. Knows no
stage.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

from engine.errors import TrainingError

Precision = Literal["float32", "bfloat16", "float16"]

_START, _GROWTH_STEPS, _SMALLEST = 2.0**16, 1000, 2.0**-4


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Computes matrix products and convolutions in `precision`."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return torch.autocast(device.type, dtype=dtype[precision], enabled=precision != "float32")


class LossScale:
    """Dynamic loss scaling (Section 3.2, arXiv:1710.03740): doubles slowly, halves at an overflow.

    DeepSpeed's own scale works on float16 weights, and torch's scaler never shrinks under its ZeRO
    stages, so the rule stands here; for other precisions the scale is 1 and never moves.
    """

    def __init__(self, precision: Precision) -> None:
        self.dynamic = precision == "float16"
        self.scale = _START if self.dynamic else 1.0
        self.good_steps = self.num_skipped = 0

    def update(self, *, overflow: bool) -> None:
        """Learn from a step whose gradients were finite or not.

        Raises:
            TrainingError: gradients are not finite at any scale.
        """
        if not self.dynamic:
            return
        if overflow:
            self.scale, self.good_steps = self.scale / 2.0, 0
            self.num_skipped += 1
            if self.scale < _SMALLEST:
                raise TrainingError(
                    f"gradients are not finite even at a loss scale of {self.scale:g}; lower "
                    "learning_rate, or train in float32; the last checkpoint is untouched"
                )
            return
        self.good_steps += 1
        if self.good_steps >= _GROWTH_STEPS:
            self.scale, self.good_steps = self.scale * 2.0, 0

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {
            "scale": self.scale, "good_steps": self.good_steps, "num_skipped": self.num_skipped
        }  # fmt: skip

    def load(self, state: dict[str, float]) -> None:
        """From a checkpoint."""
        if self.dynamic:
            self.scale = float(state["scale"])
            self.good_steps = int(state["good_steps"])
            self.num_skipped = int(state["num_skipped"])
