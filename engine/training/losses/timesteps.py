"""Which timesteps are trained, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from engine.sampling.diffusion.schedule import Schedule
from engine.training.settings.stages import DiffusionFields


@dataclass(frozen=True)
class TimestepDraw:
    """How timesteps are drawn.

    Attributes:
        rule: `uniform`; `linear`, probability proportional to t + 1; `logit_normal`, the middle
            oftener (Eq. 19, arXiv:2403.03206, with mean 0 and width 1).
        high_noise_share: share from the noisiest quarter instead: with strong conditions it decides
            nearly everything, and few-step solvers take most of their steps there.
    """

    rule: Literal["uniform", "linear", "logit_normal"] = "uniform"
    high_noise_share: float = 0.0

    @classmethod
    def of(cls, config: DiffusionFields) -> TimestepDraw:
        """The settings' draw."""
        return cls(config.timesteps, config.high_noise_share)

    def draw(self, schedule: Schedule, generators: Sequence[Generator]) -> Tensor:
        """A timestep a generator, `b` int64."""
        length = schedule.num_timesteps
        chosen = []
        for generator in generators:
            u, share, high = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
            normal = torch.randn(1, generator=generator, dtype=torch.float64)
            if share < self.high_noise_share:
                place = 0.75 + 0.25 * high
            elif self.rule == "linear":
                place = u**0.5
            elif self.rule == "logit_normal":
                place = float(normal.sigmoid())
            else:
                place = u
            chosen.append(min(int(place * length), length - 1))
        return torch.tensor(chosen)


def loss_weights(
    rule: Literal["uniform", "min_snr"], gamma: float, schedule: Schedule, t: Tensor
) -> Tensor:
    """Weight of the squared error of the network's output at timesteps `b`.

    `min_snr` is min(SNR, gamma) on the error of x_0 (Section 3.4, arXiv:2303.09556). What an error
    of the output means for x_0 follows from x_t = alpha x_0 + sigma eps: sigma / alpha of it for
    eps, sigma for v and (with alpha + sigma = 1) for flow.
    """
    if rule == "uniform":
        return torch.ones(len(t))
    alpha, sigma = schedule.alpha_sigma(t)
    snr = (alpha / sigma) ** 2
    per_output = {
        "eps": 1.0 / snr,
        "v": sigma**2 / (alpha**2 + sigma**2) ** 2,
        "flow": sigma**2 / (alpha + sigma) ** 2,
        "x_0": torch.ones_like(snr),
    }[schedule.prediction_type]
    return (snr.clamp(max=gamma) * per_output).float()
