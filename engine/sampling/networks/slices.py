"""Slices from the position model: the paper's generated informed slices (IG, Eq. 2).

A slice is a function of seed, sample and height alone: it needs no other patient's image. Knows no
volumes and no files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import SamplingError
from engine.sampling.config import SamplingConfig, schedule_of
from engine.sampling.diffusion.noise import draw_noise
from engine.sampling.diffusion.schedule import make_schedule, predicted_x_0
from engine.sampling.make_solver import make_solver
from engine.sampling.solvers.state import SolverState
from models.autoencoder import Autoencoder
from models.denoiser.position import PositionModel
from models.weights.folder import Manifest

SLICE_STEPS = 50  # of DDIM; one slice costs less than one step of one window


@torch.inference_mode()
def sample_slices(
    manifest: Manifest,
    autoencoder: Autoencoder,
    net: PositionModel,
    heights: Sequence[float],
    noise: Tensor,
    num_steps: int = SLICE_STEPS,
) -> NDArray[np.float32]:
    """Slices at heights, `b y x` in [-1, 1], in float32 and by DDIM (eta 0).

    Args:
        manifest: of the weights; tells the schedule.
        autoencoder: to decode, on the position model's device.
        net: in evaluation mode.
        heights: `b`, 0 to 1.
        noise: `b c h w` unit Gaussian, or `1 c h w` for all.
        num_steps: denoising steps; no more than the schedule has are done.
    """
    device = next(net.parameters()).device
    config = schedule_of(manifest)
    schedule = make_schedule(config)
    steps = min(num_steps, config.num_train_timesteps)
    solver = make_solver(SamplingConfig(solver="ddim", num_inference_steps=steps), schedule)
    state = SolverState(noise.to(device).expand(len(heights), -1, -1, -1).clone())
    p = torch.tensor(heights, dtype=torch.float32, device=device)
    while state.index < solver.num_evaluations:
        level, t = solver.levels[state.index], float(solver.timesteps[state.index])
        output = net(state.x, torch.full_like(p, t), p)
        alpha, sigma = torch.full_like(p, level.alpha), torch.full_like(p, level.sigma)
        x_0 = predicted_x_0(schedule.prediction_type, output, state.x, alpha, sigma)
        state = solver.step(state, x_0)
    planes = autoencoder.decode(state.x)[:, 0].clamp(-1.0, 1.0)
    return np.asarray(planes.float().cpu().numpy(), dtype=np.float32)


def draw_slice(
    manifest: Manifest,
    autoencoder: Autoencoder,
    net: PositionModel,
    height: float,
    seed: int,
    sample_id: str,
) -> NDArray[np.float32]:
    """The informed slice of one sample, `y x` in [-1, 1]: the same on every worker.

    Raises:
        SamplingError: the model's output is not finite.
    """
    edge, channels = manifest.preset.latent_px, manifest.preset.autoencoder.latent_channels
    noise = draw_noise((1, channels, edge, edge), seed, sample_id, 0, "informed slice")
    plane: NDArray[np.float32] = sample_slices(manifest, autoencoder, net, [height], noise)[0]
    if not np.isfinite(plane).all():
        raise SamplingError(
            f"{sample_id}: the generated informed slice is not finite; check the weights' position "
            "model, or use informed own or cross"
        )
    return plane
