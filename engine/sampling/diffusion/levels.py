"""Amplitudes of signal and noise: where a solver stands. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """Amplitudes of one noise level; what the last step leads to is `CLEAN`."""

    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        """log(alpha / sigma); infinite when clean."""
        return math.log(self.alpha / self.sigma) if self.sigma > 0.0 else math.inf


CLEAN = Level(1.0, 0.0)
