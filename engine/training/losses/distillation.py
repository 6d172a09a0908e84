"""Progressive distillation: a student's one step for two of its teacher (arXiv:2202.00512).

The student starts as its teacher. In each round it learns to reach in N deterministic steps what
the teacher reaches in 2N, then it becomes the teacher and N halves. This suits the engine because
targets are those of ordinary training (the same prediction type, known slices clean and flagged,
conditions as ever), so that a student is sampled like any other model. Sample it with DDIM, eta 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from engine.sampling.diffusion.schedule import Schedule, predicted_x_0, training_target
from engine.sampling.diffusion.timesteps import spaced_timesteps
from engine.training.examples.ahead import on_device
from engine.training.examples.randomness import below, normal
from engine.training.examples.windows import DenoiserBatch
from engine.training.losses.objectives import (
    DenoiserLoss,
    NoiseDraw,
    NoisyBatch,
    Objective,
    make_noisy,
    predict,
    weigh_errors,
)
from models.denoiser.unet import Denoiser


@dataclass(frozen=True)
class Rounds:
    """Which number of steps is learnt when.

    Attributes:
        counts: steps of the student in each round, halving.
        num_iterations: optimiser steps of all rounds together, divided evenly.
    """

    counts: tuple[int, ...]
    num_iterations: int

    @classmethod
    def between(cls, start: int, end: int, num_iterations: int) -> Rounds:
        """From `start` steps by halves to `end`."""
        counts = [start]
        while counts[-1] > end:
            counts.append(counts[-1] // 2)
        return cls(tuple(counts), num_iterations)

    def index(self, step: int) -> int:
        """Round of optimiser step `step` (counted from 0)."""
        return min(step * len(self.counts) // self.num_iterations, len(self.counts) - 1)

    def steps(self, step: int) -> int:
        """Steps of the student then."""
        return self.counts[self.index(step)]


@dataclass(frozen=True)
class DistillDraw:
    """Noise of a batch and the timesteps of one student step; `m` each.

    Attributes:
        noise: its `t` is where the student's step starts.
        middle: where the teacher's first step ends.
        end: where both end; -1 is clean.
    """

    noise: NoiseDraw
    middle: Tensor
    end: Tensor


def draw_distill(
    batch: DenoiserBatch, schedule: Schedule, num_steps: int, generators: Sequence[Generator]
) -> DistillDraw:
    """A step of the student's ladder an example."""
    # trailing ladders nest: every second of the teacher's timesteps is the student's
    fine = [*spaced_timesteps("trailing", 2 * num_steps, schedule.num_timesteps), -1]
    index = torch.tensor([2 * below(num_steps, g) for g in generators])
    index = index.repeat_interleave(batch.num_slices or 1)
    start, middle, end = (torch.tensor(fine)[index + offset] for offset in range(3))
    eps = normal(batch.x_0.shape, generators)
    drop = torch.zeros(len(start), dtype=torch.bool)
    return DistillDraw(NoiseDraw(start, eps, drop), middle, end)


def distill_loss(
    student: Denoiser,
    teacher: Denoiser,
    schedule: Schedule,
    batch: DenoiserBatch,
    draw: DistillDraw,
    objective: Objective,
) -> DenoiserLoss:
    """Error of the student's output against the one that lands where the teacher's two steps do."""
    noisy = make_noisy(student, schedule, batch, draw.noise)
    with torch.no_grad():
        x_0 = distilled_x_0(teacher, schedule, noisy, draw)
        alpha, sigma = _amplitudes(schedule, noisy.t, noisy.x_t)
        eps = torch.where(noisy.known[:, None, None, None], 0.0, (noisy.x_t - alpha * x_0) / sigma)
        target = training_target(schedule, x_0, eps, noisy.t)
    errors = predict(student, schedule, noisy) - target
    return weigh_errors(errors, noisy, schedule, objective, student.preset)


def distilled_x_0(
    teacher: Denoiser, schedule: Schedule, noisy: NoisyBatch, draw: DistillDraw
) -> Tensor:
    """The x_0 whose one DDIM step equals two of the teacher (Eq. 8 there); `m c h w`."""
    here = _ddim(teacher, schedule, noisy, draw.middle)
    there = _ddim(teacher, schedule, replace(noisy, x_t=here, t=draw.middle), draw.end)
    alpha, sigma = _amplitudes(schedule, noisy.t, there)
    alpha_end, sigma_end = _amplitudes(schedule, draw.end, there)
    ratio = sigma_end / sigma
    x_0 = (there - ratio * noisy.x_t) / (alpha_end - ratio * alpha)
    return torch.where(noisy.known[:, None, None, None], noisy.x_0, x_0)


def _ddim(teacher: Denoiser, schedule: Schedule, noisy: NoisyBatch, to: Tensor) -> Tensor:
    """One deterministic step (Eq. 12, arXiv:2010.02502); known slices stay as they are."""
    output = predict(teacher, schedule, noisy)
    alpha, sigma = _amplitudes(schedule, noisy.t, output)
    x_0 = predicted_x_0(schedule.prediction_type, output, noisy.x_t, alpha, sigma)
    eps = (noisy.x_t - alpha * x_0) / sigma
    alpha_to, sigma_to = _amplitudes(schedule, to, output)
    return torch.where(noisy.known[:, None, None, None], noisy.x_t, alpha_to * x_0 + sigma_to * eps)


def _amplitudes(schedule: Schedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise at `m` timesteps, `m 1 1 1`; -1 is clean."""
    alpha, sigma = schedule.alpha_sigma(t.clamp(min=0))
    clean = t < 0
    alpha, sigma = torch.where(clean, 1.0, alpha), torch.where(clean, 0.0, sigma)
    a, s = (on_device(v.float(), like.device)[:, None, None, None] for v in (alpha, sigma))
    return a, s
