"""Losses of the stages, as functions of a model and a batch."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from engine.sampling.schedule import Schedule, add_noise, training_target
from engine.training.windows_dataset import DenoiserBatch
from models.autoencoder import Autoencoder
from models.conditioning import concatenate
from models.denoiser import Denoiser
from models.presets import Preset

JOIN_WEIGHT = 4.0


def autoencoder_loss(
    model: Autoencoder, images: Tensor, kl_weight: float, generator: torch.Generator
) -> Tensor:
    """L1 + KL of the raw posterior against a unit Gaussian, mean over values.

    Args:
        model: in training; its latent scale is not used.
        images: `b 1 y x` in [-1, 1].
        kl_weight: weight of the mean KL term.
        generator: of the posterior draw.
    """
    grey = images.expand(-1, model.spec.image_channels, -1, -1)
    posterior = model.net.encode(grey).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    decoded = model.net.decode(posterior.mean + posterior.std * noise).sample
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
    return torch.as_tensor(F.l1_loss(decoded, grey) + kl_weight * kl)


def denoiser_loss(
    model: Denoiser,
    schedule: Schedule,
    batch: DenoiserBatch,
    generator: torch.Generator,
    high_noise_share: float = 0.0,
    slice_gradient_weight: float = 0.0,
    class_weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the prediction over the slices that are not known (Eq. 1).

    A window has one timestep, independent slices one each. With a known-slice input, known slices
    enter clean and flagged; without it, every slice is noised and counted.
    """
    num = len(batch.x_0)
    per_window = batch.num_slices or 1
    draws = draw_timesteps(num // per_window, schedule, high_noise_share, generator)
    draws = draws.repeat_interleave(per_window)
    eps = torch.randn(batch.x_0.shape, generator=generator)
    device = next(model.parameters()).device
    x_0, eps, t = batch.x_0.to(device), eps.to(device), draws.to(device)
    known = batch.known.to(device) & model.preset.denoiser.known_slice_input
    noisy = add_noise(schedule, x_0, eps, draws)
    x_t = torch.where(known[:, None, None, None], x_0, noisy)
    alpha, _ = schedule.alpha_sigma(draws)
    mask, informed = batch.mask.to(device), batch.informed.to(device)
    seen = model.normalise_appearance(batch.appearance.to(device))
    stacked = concatenate(x_t, mask, informed, known, alpha.to(device), seen, model.preset)
    stacked = stacked.contiguous(memory_format=torch.channels_last)
    output = model(stacked, t, batch.heights.to(device), batch.num_slices, seen)
    target = training_target(schedule, x_0, eps, draws)
    made = (~known).float()
    errors = (output.float() - target) * made[:, None, None, None]
    if class_weight is not None:
        errors = errors * class_weight_map(mask, class_weight.to(device), model.preset).sqrt()
    loss = errors.square().mean(dim=(1, 2, 3)).sum() / made.sum().clamp(min=1.0)
    if batch.num_slices is not None and slice_gradient_weight > 0.0:
        gradient = slice_gradient_error(errors, known, batch.num_slices)
        loss = loss + slice_gradient_weight * gradient
    return torch.as_tensor(loss)


def class_weight_map(mask: Tensor, class_weight: Tensor, preset: Preset) -> Tensor:
    """Weight of each latent position: 1 plus the extra weight of the classes that lie there.

    A small organ fills a few positions of a slice, so that its intensity hardly shows in a mean.

    Args:
        mask: `m (k s) h w` of `one_hot_fractions`.
        class_weight: `k` extra weights.
        preset: tells the sub-pixels.

    Returns:
        `m 1 h w`.
    """
    folded = preset.denoiser.mask_subpixels**2
    fractions = rearrange((mask + 1.0) / 2.0, "m (k s) h w -> m k s h w", s=folded).mean(dim=2)
    return 1.0 + torch.einsum("mkhw,k->mhw", fractions, class_weight)[:, None]


def slice_gradient_error(errors: Tensor, known: Tensor, num_slices: int) -> Tensor:
    """Weighted mean squared difference of the errors of neighbouring slices.

    An error that all slices share blurs or shifts a volume; one that differs from slice to slice
    makes it rough, and beside a known slice (whose error is 0) it is a seam. A window has one or
    two such joins among its pairs, so they count `JOIN_WEIGHT` times.

    Args:
        errors: `(b n) c h w`, 0 on known slices.
        known: `(b n)` bool.
        num_slices: n.
    """
    windows = rearrange(errors, "(b n) c h w -> b n c h w", n=num_slices)
    given = rearrange(known, "(b n) -> b n", n=num_slices)
    steps = (windows[:, 1:] - windows[:, :-1]).square().mean(dim=(2, 3, 4))
    at_join = given[:, 1:] ^ given[:, :-1]
    weights = torch.where(at_join, JOIN_WEIGHT, 1.0)
    return torch.as_tensor((steps * weights).mean())


def draw_timesteps(
    num: int, schedule: Schedule, high_noise_share: float, generator: torch.Generator
) -> Tensor:
    """`num` timesteps: a share from the noisiest quarter of the schedule, the rest uniform.

    With strong conditions the noisiest steps decide nearly everything, and few-step solvers take
    most of their steps there.
    """
    length = schedule.num_timesteps
    uniform = torch.randint(length, (num,), generator=generator)
    high = torch.randint(3 * length // 4, length, (num,), generator=generator)
    picked = torch.rand(num, generator=generator) < high_noise_share
    return torch.where(picked, high, uniform)
