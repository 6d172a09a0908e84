"""A feature loss for the autoencoder: distances inside a fixed ImageNet trunk from a local file.

Only convolutions are taken from the file, by shape and order, so that torchvision's, LPIPS' and
plain layouts all serve. Nothing is ever downloaded.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from engine.errors import WeightsError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EPSILON = 1e-10


@dataclass(frozen=True)
class _Layer:
    """A convolution of a trunk: its shape, its stride and padding, and what stands before it."""

    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 1
    pool: tuple[int, int] | None = None
    tap: bool = False


_ALEXNET = (
    _Layer(64, 11, stride=4, padding=2, tap=True),
    _Layer(192, 5, padding=2, pool=(3, 2), tap=True),
    _Layer(384, 3, pool=(3, 2), tap=True),
    _Layer(256, 3, tap=True),
    _Layer(256, 3, tap=True),
)
_VGG16 = tuple(
    _Layer(channels, 3, pool=(2, 2) if first and block else None, tap=last)
    for block, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))
    for first, last in [(i == 0, i == count - 1) for i in range(count)]
)


class FeatureLoss(nn.Module):
    """Mean squared distance of unit-length features at five depths (Section 3, arXiv:1801.03924).

    Without LPIPS' learnt channel weights: they were fitted to photographs.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        super().__init__()
        self.layers = _layers_for(tensors, source)
        channels = 3
        self.convolutions = nn.ModuleList()
        for layer in self.layers:
            self.convolutions.append(
                nn.Conv2d(channels, layer.out_channels, layer.kernel, layer.stride, layer.padding)
            )
            channels = layer.out_channels
        with torch.no_grad():
            for module, (weight, bias) in zip(
                self.convolutions, _convolutions(tensors), strict=False
            ):
                assert isinstance(module, nn.Conv2d)
                assert module.bias is not None
                module.weight.copy_(weight)
                module.bias.copy_(bias)
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])

    def forward(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of two batches `b c y x` in [-1, 1]; one channel is taken as grey."""
        distances = [
            (_unit(a) - _unit(b)).square().sum(dim=1).mean()
            for a, b in zip(self._features(images), self._features(reference), strict=True)
        ]
        return torch.stack(distances).sum()

    def _features(self, images: Tensor) -> list[Tensor]:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        x = ((images.float() + 1.0) / 2.0 - mean) / std  # one channel becomes three here
        taps = []
        for layer, convolution in zip(self.layers, self.convolutions, strict=True):
            if layer.pool is not None:
                x = F.max_pool2d(x, *layer.pool)
            x = F.relu(convolution(x))
            if layer.tap:
                taps.append(x)
        return taps


def load_feature_loss(path: Path) -> FeatureLoss:
    """Read a trunk.

    Args:
        path: `.safetensors`, or a file of plain tensors that `torch.load(weights_only=True)` reads.

    Raises:
        WeightsError: missing, not such a file, or neither AlexNet nor VGG16.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no perceptual trunk there; give a local file") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError) as error:
        raise WeightsError(
            f"{path}: not a file of plain tensors ({type(error).__name__}); pickles of other "
            "objects are never read"
        ) from None
    if not isinstance(tensors, Mapping):
        raise WeightsError(f"{path}: holds no mapping of names to tensors; save a state_dict")
    return FeatureLoss(tensors, str(path))


def _convolutions(tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of all convolutions, in the order of the file's layer numbers."""

    def place(name: str) -> list[tuple[int, int | str]]:
        return [(0, int(p)) if p.isdigit() else (1, p) for p in name.split(".")]

    found = []
    for name in sorted((n for n in tensors if n.endswith(".weight")), key=place):
        bias = tensors.get(name.removesuffix("weight") + "bias")
        if tensors[name].ndim == 4 and bias is not None:
            found.append((tensors[name].float(), bias.float()))
    return found


def _layers_for(tensors: Mapping[str, Tensor], source: str) -> tuple[_Layer, ...]:
    shapes = [tuple(weight.shape) for weight, _ in _convolutions(tensors)]
    for layers in (_ALEXNET, _VGG16):
        inputs = [3, *(layer.out_channels for layer in layers)]
        wanted = [
            (layer.out_channels, c, layer.kernel, layer.kernel)
            for layer, c in zip(layers, inputs, strict=False)
        ]
        if shapes[: len(wanted)] == wanted:
            return layers
    raise WeightsError(
        f"{source}: its convolutions are neither AlexNet's nor VGG16's; give one of these trunks"
    )


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + _EPSILON).sqrt()
