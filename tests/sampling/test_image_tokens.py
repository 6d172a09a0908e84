"""Image tokens of a vision tower in the sampler: once a volume, following the chain, kept whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import WeightsError
from engine.runs.record.identity import hash_weights
from engine.sampling.config import SamplingConfig
from engine.sampling.sampler import Sampler
from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser
from models.image_encoder import ImageTower
from models.presets import DenoiserSpec, TowerSpec
from models.weights.folder import (
    AUTOENCODER,
    DENOISER,
    IMAGE_ENCODER,
    check_files,
    read_manifest,
    save_weights,
    write_manifest,
)
from tests.sampling.test_sample_many import mixed
from tests.sampling.tiny_model import FAST, request

TOWER = TowerSpec(
    hidden_size=32, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, image_size=32, patch_size=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def attending(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose denoiser sees the informed slice by a tower's tokens alone."""
    manifest = read_manifest(weights)
    fields = manifest.preset.denoiser.model_dump() | {
        "conditioning": "image_attention", "image_token_width": 32,
        "style_embedding": False, "class_intensity_input": False,
    }  # fmt: skip
    spec = DenoiserSpec.model_validate(fields)
    manifest = manifest.model_copy(
        update={
            "preset": manifest.preset.model_copy(update={"denoiser": spec}),
            "image_encoder": TOWER,
            "stages": {"volume": {"condition_dropout": 0.1}},
        }
    )
    torch.manual_seed(5)
    denoiser, tower = Denoiser(manifest.preset, manifest.num_classes), ImageTower(TOWER)
    for parameter in denoiser.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    folder = tmp_path_factory.mktemp("attending")
    write_manifest(folder, manifest)
    save_weights(folder / AUTOENCODER, Autoencoder(manifest.preset.autoencoder).state_dict())
    save_weights(folder / DENOISER, denoiser.state_dict())
    save_weights(folder / IMAGE_ENCODER, tower.state_dict(), torch.float32)
    return folder


def load(folder: Path, **changes: Any) -> Sampler:
    return Sampler.load(folder, SamplingConfig.model_validate({**FAST.model_dump(), **changes}))


def watch(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Images that the tower is asked about."""
    seen: list[Tensor] = []
    real: Any = sampler.model.tower
    assert real is not None

    class Watched:
        def __call__(self, images: Tensor) -> Tensor:
            seen.append(images)
            tokens: Tensor = real(images)
            return tokens

    monkeypatch.setattr(sampler.model, "tower", Watched())
    return seen


def test_tokens_carry_the_informed_slice_and_are_made_once_a_volume(
    attending: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = load(attending, informed_follows="patient")
    seen = watch(sampler, monkeypatch)
    plain = sampler.sample(request()).image
    assert len(seen) == 1
    informed = request().informed
    assert informed is not None
    assert np.array_equal(seen[0][0, 0].numpy(), informed)
    flipped = sampler.sample(request(informed=-informed)).image
    assert np.abs(plain - flipped).max() > 1e-4


def test_tokens_follow_the_chain(attending: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = load(attending, informed_follows="chain")
    seen = watch(sampler, monkeypatch)
    volume = sampler.sample(request())
    assert volume.num_windows > 2
    assert len(seen) == volume.num_windows, "the patient's slice, then one a window behind it"
    newest = {z for z in range(15) for image in seen[1:] if same(image, volume.image[z])}
    assert len(newest) == volume.num_windows - 1, "each is a slice of the volume, decoded"


def same(image: Tensor, plane: np.ndarray) -> bool:
    return float(np.abs(image[0, 0].numpy() - plane).max()) < 1e-3


@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 2.0}, {"informed_follows": "chain"}])
def test_a_volume_with_tokens_alone_equals_it_in_company(
    attending: Path, changes: dict[str, Any]
) -> None:
    alone, together = (load(attending, max_windows=n, **changes) for n in (1, 8))
    found = {o.sample_id: o.result().image for o in together.sample_many(mixed()[:4])}
    for each in mixed()[:4]:
        assert np.abs(alone.sample(each).image - found[each.sample_id]).max() < 2e-3


def test_a_missing_or_foreign_tower_is_refused(attending: Path, tmp_path: Path) -> None:
    for path in attending.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = read_manifest(tmp_path)
    digest, files = hash_weights(tmp_path)
    assert IMAGE_ENCODER in files
    save_weights(tmp_path / IMAGE_ENCODER, {"a": torch.zeros(1)})
    assert hash_weights(tmp_path)[0] != digest
    with pytest.raises(WeightsError, match=r"image_encoder\.safetensors: made for another"):
        load(tmp_path)
    (tmp_path / IMAGE_ENCODER).unlink()
    with pytest.raises(WeightsError, match=r"image_encoder\.safetensors: not found"):
        load(tmp_path)
    write_manifest(tmp_path, manifest.model_copy(update={"image_encoder": None}))
    with pytest.raises(WeightsError, match="names none; train its last stage again with"):
        load(tmp_path)
    wide = TOWER.model_copy(update={"hidden_size": 64})
    write_manifest(tmp_path, manifest.model_copy(update={"image_encoder": wide}))
    with pytest.raises(WeightsError, match="tokens of width 64 for a denoiser that takes 32"):
        load(tmp_path)
    networks = Autoencoder(manifest.preset.autoencoder), Denoiser(manifest.preset, 2)
    with pytest.raises(WeightsError, match="attends to image tokens of width 32: give the vision"):
        Sampler(manifest, *networks, FAST)


def test_the_demo_weights_pass_their_checks() -> None:
    folder = Path(__file__).parents[2] / "weights" / "demo_abdomen"
    check_files(folder, read_manifest(folder))
