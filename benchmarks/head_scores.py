"""Scores of head volumes in torch, on whatever device: many volumes in a second.

MS-SSIM is that of `engine.evaluation.fidelity` (a test holds the two equal); beside it stand the
same inside the body, one scale at one height, texture by class, and what two seeds have in common.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_RANGE = 2.0
_KERNEL_PX, _KERNEL_SIGMA_PX = 7, 1.5
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_K1, _K2 = 0.01, 0.03


def ms_ssim_slices(image: Tensor, real: Tensor, body: Tensor | None = None) -> Tensor:
    """MS-SSIM of each slice, `z`; inside `body` (`z y x` bool) where it is given.

    Slices without a body are NaN.
    """
    x, y = image[:, None].float(), real[:, None].float()
    weight = torch.ones_like(x) if body is None else body[:, None].float()
    score = torch.ones(len(x), device=x.device)
    for scale, power in enumerate(_SCALE_WEIGHTS):
        if scale:
            x, y, weight = (F.avg_pool2d(v, 2) for v in (x, y, weight))
        values = ssim_map(x, y, with_luminance=scale == len(_SCALE_WEIGHTS) - 1)
        edge = _KERNEL_PX // 2
        inside = weight[..., edge:-edge, edge:-edge]
        term = (values * inside).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))
        score = score * term.clamp(min=0.0) ** power
    return score


def ssim_map(x: Tensor, y: Tensor, *, with_luminance: bool = True) -> Tensor:
    """SSIM around each pixel that has a whole window, `b 1 y-6 x-6`."""
    c_1, c_2 = (_K1 * _RANGE) ** 2, (_K2 * _RANGE) ** 2
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x, var_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    contrast = (2 * (_smooth(x * y) - mean_x * mean_y) + c_2) / (var_x + var_y + c_2)
    luminance = (2 * mean_x * mean_y + c_1) / (mean_x**2 + mean_y**2 + c_1)
    return torch.as_tensor(contrast * luminance if with_luminance else contrast)


def _smooth(x: Tensor) -> Tensor:
    offsets = torch.arange(_KERNEL_PX, device=x.device, dtype=x.dtype) - _KERNEL_PX // 2
    kernel = torch.exp(-((offsets / _KERNEL_SIGMA_PX) ** 2) / 2)
    kernel = kernel / kernel.sum()
    return F.conv2d(F.conv2d(x, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))


def ssim_at(image: Tensor, real: Tensor, body: Tensor, z: int) -> float:
    """SSIM of one slice, mean inside its body."""
    edge = _KERNEL_PX // 2
    here = slice(z, z + 1)
    values = ssim_map(image[here, None].float(), real[here, None].float())
    inside = body[here, None, edge:-edge, edge:-edge]
    return float(values[inside].mean())


def texture_by_class(image: Tensor, mask: Tensor, num_classes: int) -> list[float]:
    """Standard deviation of what a 3 px mean leaves, of each class away from its border."""
    x = image[:, None].float()
    fine = (x[..., 1:-1, 1:-1] - F.avg_pool2d(x, 3, stride=1))[:, 0]
    found = []
    for number in range(1, num_classes + 1):
        inside = (mask == number)[:, None].float()
        deep = -F.max_pool2d(-inside, 3, stride=1)[:, 0] > 0.5
        found.append(float(fine[deep].std()) if int(deep.sum()) > 50 else float("nan"))
    return found


def squared_error(a: Tensor, b: Tensor, body: Tensor) -> float:
    """Mean squared difference inside the body."""
    return float((a.float() - b.float()).square()[body].mean())
