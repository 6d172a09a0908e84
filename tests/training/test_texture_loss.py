"""The texture loss: smooth images pay, images with the right strength of noise do not."""

import torch

from engine.training.losses.texture import fine_strength, texture_loss


def test_another_draw_of_the_same_noise_costs_little_and_smoothness_much() -> None:
    torch.manual_seed(0)
    base = torch.zeros(4, 1, 48, 48)
    real, redrawn = base + 0.1 * torch.randn_like(base), base + 0.1 * torch.randn_like(base)
    smooth, twice = base, base + 0.2 * torch.randn_like(base)
    assert texture_loss(redrawn, real) < 0.3 * texture_loss(smooth, real)
    assert texture_loss(redrawn, real) < 0.3 * texture_loss(twice, real)
    assert texture_loss(real, real) == 0.0


def test_strength_is_the_noises_own_where_it_lies() -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 1, 64, 64)
    image[..., 32:] = 0.2 * torch.randn(1, 1, 64, 32)
    strength = fine_strength(image)
    quiet, loud = strength[..., :24].mean(), strength[..., 40:].mean()
    assert abs(float(loud) - 0.2 * (8 / 9) ** 0.5) < 0.02, "a 3 px mean takes a ninth of it"
    assert float(quiet) < 0.011, "epsilon alone"
