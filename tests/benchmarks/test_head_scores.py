"""Scores in torch against the product's own, and what they must tell apart."""

import numpy as np
import pytest
import torch

from engine.evaluation.fidelity import ms_ssim
from head_scores import ms_ssim_slices, ssim_at, texture_by_class


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    real = np.clip(rng.normal(0.0, 0.4, (5, 128, 128)), -1, 1).astype(np.float32)
    made = np.clip(real + rng.normal(0.0, 0.2, real.shape), -1, 1).astype(np.float32)
    return torch.from_numpy(made), torch.from_numpy(real)


def test_ms_ssim_is_the_engines() -> None:
    made, real = pair()
    own = float(ms_ssim_slices(made, real).mean())
    assert own == pytest.approx(ms_ssim(made.numpy(), real.numpy(), 2.0), abs=2e-4)


def test_inside_a_body_the_body_counts() -> None:
    torch.manual_seed(0)
    made, real = pair()
    body = torch.zeros(real.shape, dtype=torch.bool)
    body[:, :, :64] = True
    spoilt = made.clone()
    spoilt[:, :, 84:] += 0.8 * torch.randn(5, 128, 44)
    inside, after = (float(ms_ssim_slices(m, real, body).mean()) for m in (made, spoilt))
    assert abs(inside - after) < 0.05 < inside - float(ms_ssim_slices(spoilt, real).mean())
    assert ssim_at(real, real, body, 2) == pytest.approx(1.0)


def test_texture_is_that_of_each_class() -> None:
    torch.manual_seed(0)
    mask = torch.ones(2, 64, 64, dtype=torch.uint8)
    mask[:, 32:] = 2
    image = torch.where(mask == 1, 0.1, 0.3) * torch.randn(2, 64, 64)
    first, second = texture_by_class(image, mask, 2)
    assert second / first == pytest.approx(3.0, rel=0.1)
