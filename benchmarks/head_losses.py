"""What the parts of a heads model minimise on the card, and how they are laid out there."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.sampling.diffusion.schedule import Schedule
from engine.training.losses.adversarial import Adversary
from engine.training.losses.objectives import NoiseDraw, Objective, denoiser_loss
from engine.training.losses.perceptual import FeatureLoss
from engine.training.losses.texture import texture_loss
from head_pool import HeadPool
from head_recipe import Recipe
from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser


class Judge:
    """The autoencoder's loss."""

    def __init__(self, net: Autoencoder, recipe: Recipe, features: FeatureLoss | None) -> None:
        self.net, self.recipe, self.features = net, recipe, features
        device = next(net.parameters()).device
        self.adversary = Adversary(1, recipe.ae_rate / 3, device)

    def loss(self, real: Tensor, fraction: float) -> Tensor:
        """Of a batch of slices."""
        recipe, device = self.recipe, real.device
        with autocast(device):
            posterior = self.net.net.encode(real).latent_dist
            drawn = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
            decoded = self.net.net.decode(drawn).sample.float()
            mean, variance = posterior.mean.float(), posterior.var.float()
            kl = 0.5 * (mean**2 + variance - 1.0 - posterior.logvar.float()).mean()
            error = decoded - real
            loss = error.abs().mean() + error.square().mean() + recipe.kl_weight * kl
            if self.features is not None:
                loss = loss + recipe.perceptual * self.features(decoded, real)
        loss = loss + recipe.texture * texture_loss(decoded, real)
        if recipe.adversarial > 0.0 and fraction >= recipe.adversarial_from:
            last = cast(nn.Conv2d, self.net.net.decoder.conv_out).weight
            self.adversary.step()  # what it learnt from the batch before
            loss = loss + self.adversary.generator_loss(decoded, loss, last, recipe.adversarial)
            self.adversary.accumulate(real, decoded, 1.0)
        return torch.as_tensor(loss)


class Noising:
    """The denoiser's loss on windows, or on their slices one by one."""

    def __init__(self, net: Denoiser, schedule: Schedule, pool: HeadPool, recipe: Recipe) -> None:
        self.net, self.schedule, self.pool, self.recipe = net, schedule, pool, recipe
        weight = torch.full((pool.num_classes,), recipe.class_weight)
        self.objective = Objective("uniform", 5.0, recipe.gradient_weight, weight)
        self.call: Any = net
        if recipe.compile:
            self.call = torch.compile(net, dynamic=False)

    def loss(self, *, slices: bool) -> Tensor:
        """Of a batch that is drawn here."""
        recipe, device = self.recipe, self.pool.device
        batch = self.pool.batch(recipe.batch, recipe.pinned_share)
        count = len(batch.x_0) if slices else recipe.batch
        t = self._timesteps(count)
        if slices:
            unknown = torch.zeros_like(batch.conditions.known)
            conditions = type(batch.conditions)(**{**vars(batch.conditions), "known": unknown})
            batch = type(batch)(batch.x_0, conditions, None)
        else:
            t = t.repeat_interleave(self.pool.preset.window)
        drop = torch.zeros(len(t), dtype=torch.bool)
        draw = NoiseDraw(t, torch.randn_like(batch.x_0), drop)
        with autocast(device):
            found = denoiser_loss(self.call, self.schedule, batch, draw, self.objective)
        return found.total

    def _timesteps(self, count: int) -> Tensor:
        """One in each of `count` equal parts of the distribution, in a random order."""
        place = (torch.randperm(count) + torch.rand(count)) / count
        if self.recipe.timesteps != "uniform":
            middle = torch.special.ndtri(place.clamp(1e-4, 1.0 - 1e-4)).sigmoid()
            share = 0.5 if self.recipe.timesteps == "mixed" else 1.0
            place = torch.where(torch.rand(count) < share, middle, place)
        length = self.schedule.num_timesteps
        return (place * length).long().clamp(max=length - 1)


def sharpen_posterior(net: Autoencoder) -> None:
    """Begin with little noise in the latents; from a variance of 1 the way there is long."""
    channels, last = net.spec.latent_channels, net.net.quant_conv
    with torch.no_grad():
        last.weight[channels:].mul_(0.1)
        last.bias[channels:].fill_(-6.0)


def norm_in_bfloat16(net: nn.Module) -> None:
    """Norms as the layers around them: autocast would make copies in float32 of all they touch."""
    for module in net.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.forward = partial(_norm, module)  # type: ignore[method-assign]


def _norm(module: nn.GroupNorm | nn.LayerNorm, x: Tensor) -> Tensor:
    assert module.weight is not None
    assert module.bias is not None
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.bfloat16)
        weight, bias = module.weight.to(x.dtype), module.bias.to(x.dtype)
        if isinstance(module, nn.GroupNorm):
            return F.group_norm(x, module.num_groups, weight, bias, module.eps)
        return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


def autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """bfloat16 on a card; the CPU is for trying things out."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
