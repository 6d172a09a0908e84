"""Networks that only look: right features from right files, and refusals by name."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models.errors import WeightsFileError
from models.extractors.load import AbsentError, load_extractor, load_st_lpips
from models.extractors.perceptual import ShiftTolerantLpips
from models.extractors.resnet import NUM_FEATURES, ResNet50, own_names


def saved(tensors: dict[str, torch.Tensor], path: Path) -> str:
    torch.save(tensors, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_radimagenets_names_are_those_of_a_resnet(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResNet50().eval()
    numbered = {"conv1": "0", "bn1": "1", **{f"layer{n}": str(n + 3) for n in range(1, 5)}}
    tensors = {}
    for name, tensor in network.state_dict().items():
        first, _, rest = name.partition(".")
        tensors[f"backbone.{numbered[first]}.{rest}"] = tensor
    tensors["fc.weight"] = torch.zeros(3, NUM_FEATURES)
    digest = saved(tensors, tmp_path / "resnet.pt")
    extractor = load_extractor("radimagenet-resnet50", tmp_path / "resnet.pt", digest)
    images = torch.rand(2, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        oracle = network((images - mean) / deviation)
    assert extractor.sha256 == digest
    torch.testing.assert_close(extractor.features(images), oracle)
    assert set(own_names(tensors)) == set(network.state_dict())


def test_a_wrong_file_a_wrong_hash_and_no_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    saved({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsFileError, match="tensors are missing"):
        load_extractor("radimagenet-resnet50", path)
    with pytest.raises(WeightsFileError, match=r"is not the 0000"):
        load_extractor("radimagenet-resnet50", path, "0" * 64)
    with pytest.raises(WeightsFileError, match="no such file"):
        load_extractor("radimagenet-resnet50", tmp_path / "nothing.pt")
    with pytest.raises(AbsentError, match="local file"):
        load_extractor("radimagenet-resnet50")
    with pytest.raises(WeightsFileError, match="not the weights of ST-LPIPS"):
        load_st_lpips(path)


def lpips_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    shapes = {
        "slice1.0": (64, 3, 11), "slice2.5": (192, 64, 5), "slice3.9": (384, 192, 3),
        "slice4.11": (256, 384, 3), "slice5.13": (256, 256, 3),
    }  # fmt: skip
    tensors = {}
    for number, (name, (out, into, kernel)) in enumerate(shapes.items()):
        layer = nn.Conv2d(into, out, kernel)
        assert layer.bias is not None
        tensors[f"net.{name}.weight"], tensors[f"net.{name}.bias"] = layer.weight, layer.bias
        tensors[f"lin{number}.model.1.weight"] = torch.rand(1, out, 1, 1)
    return {name: tensor.detach() for name, tensor in tensors.items()}


def test_perceptual_distance_is_zero_for_equals_and_grows_with_noise() -> None:
    network = ShiftTolerantLpips(lpips_tensors())
    image = torch.rand(2, 1, 64, 64) * 2 - 1
    noise = torch.randn_like(image)
    scores = [network(image + s * noise, image) for s in (0.0, 0.1, 0.4)]
    assert scores[0].abs().max() == 0.0
    assert (scores[1] < scores[2]).all() and (scores[1] > 0).all()
    assert scores[1].shape == (2,)


def test_efficientnet_is_absent_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AbsentError, match=r"gem3d-engine\[extractors\]"):
        load_extractor("efficientnet-lite0")
