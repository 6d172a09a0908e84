"""Number formats of training: autocast around the loss, and the scale that float16 needs.

Weights, gradients and optimiser states stay float32; only the forward pass is narrower. Knows no
stage.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

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
            self._refuse_tiny()
            return
        self.good_steps += 1
        if self.good_steps >= _GROWTH_STEPS:
            self.scale, self.good_steps = self.scale * 2.0, 0

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss whose gradients are taken."""
        return loss * self.scale if self.dynamic else loss

    def look(self) -> None:
        """Bring to the host what is only known on the device; here, everything is known."""

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        self.look()
        return {
            "scale": self.scale, "good_steps": self.good_steps, "num_skipped": self.num_skipped
        }  # fmt: skip

    def load(self, state: dict[str, float]) -> None:
        """From a checkpoint."""
        if self.dynamic:
            self.scale = float(state["scale"])
            self.good_steps = int(state["good_steps"])
            self.num_skipped = int(state["num_skipped"])

    def _refuse_tiny(self) -> None:
        if self.scale < _SMALLEST:
            raise TrainingError(
                f"gradients are not finite even at a loss scale of {self.scale:g}; lower "
                "learning_rate, or train in float32; the last checkpoint is untouched"
            )


class LossScaleOnGpu(LossScale):
    """The same rule as numbers on the GPU, so that no step waits to know whether it overflowed.

    Attributes:
        overflow: 1 where the last gradient was not finite, else 0; what a fused optimiser skips by.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__("float16")
        self._scale = torch.full((), self.scale, device=device)
        self._good = torch.zeros((), dtype=torch.int32, device=device)
        self._skipped = torch.zeros((), device=device)
        self.overflow = torch.zeros((), device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss whose gradients are taken."""
        return loss * self._scale

    @property
    def inverse(self) -> Tensor:
        """What brings gradients back."""
        return self._scale.reciprocal()

    def learn(self, norm: Tensor) -> None:
        """From the norm of a step's unscaled gradient."""
        self.overflow.copy_(torch.isfinite(norm).logical_not())
        self._skipped += self.overflow
        torch._amp_update_scale_(self._scale, self._good, self.overflow, 2.0, 0.5, _GROWTH_STEPS)

    def look(self) -> None:
        """Wait for the GPU, and know.

        Raises:
            TrainingError: gradients are not finite at any scale.
        """
        numbers = torch.stack([self._scale, self._good.float(), self._skipped]).tolist()
        self.scale, self.good_steps, self.num_skipped = numbers[0], int(numbers[1]), int(numbers[2])
        self._refuse_tiny()

    def load(self, state: dict[str, float]) -> None:
        """From a checkpoint."""
        super().load(state)
        self._scale.fill_(self.scale)
        self._good.fill_(self.good_steps)
        self._skipped.fill_(self.num_skipped)
