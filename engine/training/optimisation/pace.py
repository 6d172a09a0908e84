"""Where a training stands: step, time, what is left, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time


class Pace:
    """Counts steps and time over interruptions; ends at whichever limit comes first.

    Args:
        num_iterations: steps in all.
        max_minutes: time in all, or None.
    """

    def __init__(self, num_iterations: int, max_minutes: float | None) -> None:
        self.num_iterations, self.max_minutes = num_iterations, max_minutes
        self.step = self._step_at_start = 0
        self._earlier_s, self._started = 0.0, time.monotonic()
        self._checkpointed_s, self._agreed_s = 0.0, 0.0

    def resume(self, step: int, elapsed_s: float) -> None:
        """Go on from a checkpoint."""
        self.step = self._step_at_start = step
        self._earlier_s = elapsed_s
        self._started = time.monotonic()
        self._checkpointed_s = self._agreed_s = elapsed_s

    def agree(self, elapsed_s: float) -> None:
        """Take the first worker's clock for what follows from it, so that all decide alike."""
        self._agreed_s = elapsed_s

    def checkpointed(self) -> None:
        """Count the time to the next checkpoint from here."""
        self._checkpointed_s = self._agreed_s

    @property
    def since_checkpoint_s(self) -> float:
        """Seconds since the last checkpoint, by the agreed clock."""
        return self._agreed_s - self._checkpointed_s

    def advance(self) -> None:
        """Count one step."""
        self.step += 1

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, earlier parts included."""
        return self._earlier_s + time.monotonic() - self._started

    @property
    def fraction(self) -> float:
        """0 at the start, 1 at the end."""
        by_steps = self.step / self.num_iterations if self.num_iterations else 1.0
        by_time = self._agreed_s / (60.0 * self.max_minutes) if self.max_minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def done(self) -> bool:
        """Whether a limit is reached."""
        return self.fraction >= 1.0

    @property
    def steps_per_s(self) -> float:
        """Speed since the start or the resume."""
        return (self.step - self._step_at_start) / max(time.monotonic() - self._started, 1e-6)

    @property
    def left_s(self) -> float:
        """Seconds to the nearer limit, as far as one can tell."""
        by_steps = (self.num_iterations - self.step) / max(self.steps_per_s, 1e-6)
        if self.max_minutes is None:
            return by_steps
        return max(0.0, min(by_steps, 60.0 * self.max_minutes - self.elapsed_s))


def learning_rate_factor(step: int, fraction: float, warmup: int) -> float:
    """Linear warm-up over steps, then cosine to 2 % over the fraction done."""
    warm = min(1.0, (step + 1) / max(warmup, 1))
    return warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * fraction)))
