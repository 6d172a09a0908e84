"""Shift-tolerant LPIPS on AlexNet: perceptual distance of two slices (ST-LPIPS, arXiv:2207.13686).

Its trunk and channel weights are in the package `stlpips_pytorch` (BSD-2), whose own code is not
used. Not the LPIPS of the GEM-3D paper, whose trunk comes from torchvision's server: numbers of the
two are not comparable.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CONVOLUTIONS = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
_PADDING = (2, 2, 1, 1, 1)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPSILON = 1e-10


class ShiftTolerantLpips(nn.Module):
    """Distance of two batches; takes the tensors of `alex_shift_tolerant.pth`."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for number, (name, padding) in enumerate(zip(_CONVOLUTIONS, _PADDING, strict=True)):
            weight = tensors[f"net.{name}.weight"]
            out_channels, in_channels, kernel, _ = weight.shape
            convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=padding)
            convolution.load_state_dict({"weight": weight, "bias": tensors[f"net.{name}.bias"]})
            setattr(self, f"convolution{number}", convolution)
            self.register_buffer(f"channel{number}", tensors[f"lin{number}.model.1.weight"])
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None])
        self.requires_grad_(False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances `b` of images `b 1 y x` in [-1, 1]; 0 is equal."""
        total = torch.zeros(len(images), device=images.device)
        pairs = zip(self._features(images), self._features(others), strict=True)
        for number, (one, other) in enumerate(pairs):
            apart = (_unit(one) - _unit(other)).square()
            weighted = F.conv2d(apart, self.get_buffer(f"channel{number}"))
            total = total + weighted.mean(dim=(1, 2, 3))
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        x = (images - self.get_buffer("shift")) / self.get_buffer("scale")
        taps = []
        for number in range(len(_CONVOLUTIONS)):
            convolution = self.get_submodule(f"convolution{number}")
            if number == 0:
                x = F.relu(_blur_pool(convolution(x)))
            else:
                if number < 3:
                    x = _blur_pool(F.max_pool2d(x, 3, 1))
                x = F.relu(convolution(x))
            taps.append(x)
        return taps


def _blur_pool(x: Tensor) -> Tensor:
    """A binomial window of 3 with stride 2, after reflecting 2 pixels (arXiv:1904.11486)."""
    row = torch.tensor([1.0, 2.0, 1.0], device=x.device, dtype=x.dtype) / 4.0
    window = (row[:, None] * row)[None, None].expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), window, stride=2, groups=x.shape[1])


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON)
