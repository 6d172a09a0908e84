"""Losses of the stages, as functions of a model and a batch.

Each is a mean over examples that does not depend on how they are grouped into batches, so that
micro-batch, accumulation and number of workers do not change what is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from torch import Generator, Tensor
from torch.nn import functional as F

from engine.sampling.diffusion.schedule import Schedule, add_noise, training_target
from engine.training.examples.ahead import on_device
from engine.training.examples.randomness import normal
from engine.training.examples.windows import DenoiserBatch
from engine.training.losses.timesteps import TimestepDraw, loss_weights
from engine.training.settings.stages import DenoiserSettings
from models.autoencoder import Autoencoder
from models.conditions import Conditions
from models.denoiser.unet import Denoiser
from models.presets import Preset

JOIN_WEIGHT = 4.0


@dataclass(frozen=True)
class Objective:
    """What a denoiser is trained for, beside its schedule.

    Attributes:
        weighting: of timesteps in the loss.
        min_snr_gamma: of `min_snr`.
        slice_gradient_weight: of errors that differ between neighbouring slices.
        class_weight: `k` extra weights of positions inside a class, or None.
    """

    weighting: Literal["uniform", "min_snr"] = "uniform"
    min_snr_gamma: float = 5.0
    slice_gradient_weight: float = 0.0
    class_weight: Tensor | None = None

    @classmethod
    def of(cls, config: DenoiserSettings, class_weight: Tensor | None) -> Objective:
        """The settings' objective."""
        return cls(
            config.loss_weighting,
            config.min_snr_gamma,
            config.slice_gradient_weight,
            class_weight,
        )


@dataclass(frozen=True)
class NoiseDraw:
    """What is random about a batch once its examples are chosen.

    Attributes:
        t: `m` timesteps, equal within a window.
        eps: `m c h w`.
        drop: `m` bool, examples without conditions.
    """

    t: Tensor
    eps: Tensor
    drop: Tensor


@dataclass(frozen=True)
class DenoiserLoss:
    """A loss and where it comes from.

    Attributes:
        total: mean over examples, with gradients.
        each: `b`, of each window or slice, unweighted by timestep and without gradients.
        t: `b`, their timesteps.
    """

    total: Tensor
    each: Tensor
    t: Tensor


def autoencoder_loss(
    model: Autoencoder, images: Tensor, kl_weight: float, eps: Sequence[Generator]
) -> tuple[Tensor, Tensor, Tensor]:
    """L1 + KL of the raw posterior against a unit Gaussian, mean over values.

    Args:
        model: in training; its latent scale is not used.
        images: `b 1 y x` in [-1, 1].
        kl_weight: weight of the mean KL term.
        eps: a generator an image, of the posterior draw.

    Returns:
        Loss, and decoded and true images `b c y x` with the autoencoder's channels.
    """
    grey = images.expand(-1, model.spec.image_channels, -1, -1)
    posterior = model.net.encode(grey).latent_dist
    noise = on_device(normal(posterior.mean.shape, eps), posterior.mean)
    decoded = model.net.decode(posterior.mean + posterior.std * noise).sample.float()
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
    return F.l1_loss(decoded, grey) + kl_weight * kl, decoded, grey


def decoder_loss(
    model: Autoencoder, images: Tensor, eps: Sequence[Generator]
) -> tuple[Tensor, Tensor, Tensor]:
    """L1 of what the decoder makes of slightly noisy latents, which nothing is learnt through.

    The noise is half the posterior's standard deviation: sampled latents are not exact either.

    Args:
        model: its encoder is frozen.
        images: `b 1 y x` in [-1, 1].
        eps: a generator an image.

    Returns:
        Loss, and decoded and true images `b c y x` with the autoencoder's channels.
    """
    grey = images.expand(-1, model.spec.image_channels, -1, -1)
    with torch.no_grad():
        posterior = model.net.encode(grey).latent_dist
        noise = on_device(normal(posterior.mean.shape, eps), posterior.mean)
        latents = posterior.mean + 0.5 * posterior.std * noise
    decoded = model.net.decode(latents).sample.float()
    return F.l1_loss(decoded, grey), decoded, grey


def draw_noise(
    batch: DenoiserBatch,
    schedule: Schedule,
    timesteps: TimestepDraw,
    condition_dropout: float,
    generators: Sequence[Generator],
) -> NoiseDraw:
    """Timestep and dropout an example (a window has one), noise a slice."""
    n = batch.num_slices or 1
    t = timesteps.draw(schedule, generators)
    drop = torch.tensor([float(torch.rand(1, generator=g)) < condition_dropout for g in generators])
    eps = normal(batch.x_0.shape, generators)
    return NoiseDraw(t.repeat_interleave(n), eps, drop.repeat_interleave(n))


@dataclass(frozen=True)
class NoisyBatch:
    """What a denoiser sees of a batch, on its device; `m = b n` slices.

    Attributes:
        x_t: `m c h w`, known slices clean.
        x_0: `m c h w`.
        eps: `m c h w`.
        t: `m`, on the CPU like the schedule.
        conditions: of the m slices, dropped ones taken away.
        mask: `m k h w`, also of the examples that are shown none.
        num_slices: n, or None.
    """

    x_t: Tensor
    x_0: Tensor
    eps: Tensor
    t: Tensor
    conditions: Conditions
    mask: Tensor
    num_slices: int | None

    @property
    def known(self) -> Tensor:
        """`m` bool, known slices that the model is told of."""
        return self.conditions.known


def make_noisy(
    model: Denoiser, schedule: Schedule, batch: DenoiserBatch, draw: NoiseDraw
) -> NoisyBatch:
    """Noise a batch; known slices stay clean where the model has an input that says so."""
    device = next(model.parameters()).device
    x_0, eps = on_device(batch.x_0, device), on_device(draw.eps, device)
    given = batch.conditions.to(device)
    known = given.known & model.preset.denoiser.known_slice_input
    shown = replace(given, known=known)
    if bool(draw.drop.any()):
        shown = shown.without(on_device(draw.drop, device))
    x_t = torch.where(_as_planes(known), x_0, add_noise(schedule, x_0, eps, draw.t))
    return NoisyBatch(x_t, x_0, eps, draw.t, shown, given.mask, batch.num_slices)


def predict(model: Denoiser, schedule: Schedule, noisy: NoisyBatch) -> Tensor:
    """The model's output for a batch as it stands, `m c h w` float32."""
    device = noisy.x_t.device
    alpha = on_device(schedule.alpha_sigma(noisy.t)[0], device)
    t, given = on_device(noisy.t, device), noisy.conditions
    output, _ = model(noisy.x_t, t, alpha, given, noisy.num_slices)
    return torch.as_tensor(output).float()


def denoiser_loss(
    model: Denoiser,
    schedule: Schedule,
    batch: DenoiserBatch,
    draw: NoiseDraw,
    objective: Objective,
) -> DenoiserLoss:
    """Mean squared error of the prediction over the slices that are not known (Eq. 1).

    With a known-slice input, known slices enter clean and flagged; without it, every slice is
    noised and counted.
    """
    noisy = make_noisy(model, schedule, batch, draw)
    target = training_target(schedule, noisy.x_0, noisy.eps, noisy.t)
    errors = predict(model, schedule, noisy) - target
    return weigh_errors(errors, noisy, schedule, objective, model.preset)


def weigh_errors(
    errors: Tensor, noisy: NoisyBatch, schedule: Schedule, objective: Objective, preset: Preset
) -> DenoiserLoss:
    """Errors of the output `m c h w` to a loss: by class, by window, by timestep."""
    made = (~noisy.known).float()
    errors = errors * made[:, None, None, None]
    if objective.class_weight is not None:
        weight = class_weight_map(
            noisy.mask, on_device(objective.class_weight, errors.device), preset
        )
        errors = errors * weight.sqrt()
    n = noisy.num_slices or 1
    squares = rearrange(errors.square().mean(dim=(1, 2, 3)), "(b n) -> b n", n=n).sum(dim=1)
    each = squares / rearrange(made, "(b n) -> b n", n=n).sum(dim=1).clamp(min=1.0)
    if noisy.num_slices is not None and objective.slice_gradient_weight > 0.0:
        gradient = slice_gradient_error(errors, noisy.known, n)
        each = each + objective.slice_gradient_weight * gradient
    t = noisy.t[::n]
    weights = loss_weights(objective.weighting, objective.min_snr_gamma, schedule, t)
    return DenoiserLoss((each * on_device(weights, each.device)).mean(), each.detach(), t)


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
    """Weighted mean squared difference of the errors of neighbouring slices, a window each.

    An error that all slices share blurs or shifts a volume; one that differs from slice to slice
    makes it rough, and beside a known slice (whose error is 0) it is a seam. A window has one or
    two such joins among its pairs, so they count `JOIN_WEIGHT` times.

    Args:
        errors: `(b n) c h w`, 0 on known slices.
        known: `(b n)` bool.
        num_slices: n.

    Returns:
        `b`.
    """
    windows = rearrange(errors, "(b n) c h w -> b n c h w", n=num_slices)
    given = rearrange(known, "(b n) -> b n", n=num_slices)
    steps = (windows[:, 1:] - windows[:, :-1]).square().mean(dim=(2, 3, 4))
    at_join = given[:, 1:] ^ given[:, :-1]
    weights = torch.where(at_join, JOIN_WEIGHT, 1.0)
    return (steps * weights).mean(dim=1)


def _as_planes(flags: Tensor) -> Tensor:
    return flags[:, None, None, None]
