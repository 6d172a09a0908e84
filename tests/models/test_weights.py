"""A weights folder: round trip, and what is refused."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser
from models.presets import PRESETS
from models.weights.folder import (
    AUTOENCODER,
    CONFIG,
    DENOISER,
    Manifest,
    WeightsFileError,
    load_autoencoder,
    load_denoiser,
    read_manifest,
    save_weights,
    weights_sha256,
    write_manifest,
)
from models.weights.manifest import POSITION, hash_files, refuse_damage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest = Manifest(
        preset=PRESETS["demo"],
        num_classes=2,
        class_names=("a", "b"),
        schedule={},
        spacing_mm_yx=3.0,
        modality="ct",
    )
    write_manifest(tmp_path, manifest)
    torch.manual_seed(0)
    save_weights(tmp_path / AUTOENCODER, Autoencoder(manifest.preset.autoencoder).state_dict())
    save_weights(tmp_path / DENOISER, Denoiser(manifest.preset, 2).state_dict())
    return tmp_path


def test_round_trip_in_half_precision(folder: Path) -> None:
    manifest = read_manifest(folder)
    torch.manual_seed(0)
    expected = Autoencoder(manifest.preset.autoencoder).state_dict()
    for name, value in load_autoencoder(folder, manifest).state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-3)


def test_the_digest_changes_with_any_file(folder: Path) -> None:
    before = weights_sha256(folder)
    config = json.loads((folder / CONFIG).read_text())
    config["class_names"] = ["a", "c"]
    (folder / CONFIG).write_text(json.dumps(config))
    assert weights_sha256(folder) != before


def test_written_digests_change_no_identity(folder: Path) -> None:
    before = hash_files(folder)  # its manifest was written before its tensors: it names none
    write_manifest(folder, read_manifest(folder))
    assert hash_files(folder) == before
    assert read_manifest(folder).sha256 == before
    refuse_damage(folder, before)


@pytest.mark.parametrize("name", [AUTOENCODER, DENOISER])
@pytest.mark.parametrize("at", [9, -5])
def test_a_flipped_bit_is_found(folder: Path, name: str, at: int) -> None:
    write_manifest(folder, read_manifest(folder))
    data = bytearray((folder / name).read_bytes())
    data[at] ^= 0x40
    (folder / name).write_bytes(data)
    with pytest.raises(WeightsFileError, match=rf"{name}: damaged or exchanged \(sha256"):
        refuse_damage(folder, hash_files(folder))


def test_an_edited_configuration_is_found_unless_it_is_meant(folder: Path) -> None:
    write_manifest(folder, read_manifest(folder))
    path = folder / CONFIG
    path.write_text(path.read_text().replace('"spacing_mm_yx": 3.0', '"spacing_mm_yx": 2.0'))
    with pytest.raises(WeightsFileError, match=r'config\.json: damaged .* take "sha256" out'):
        refuse_damage(folder, hash_files(folder))
    raw = json.loads(path.read_text())
    del raw["sha256"]
    path.write_text(json.dumps(raw))
    refuse_damage(folder, hash_files(folder))


def test_a_file_that_is_gone_is_found(folder: Path) -> None:
    (folder / POSITION).write_bytes(b"tensors")
    write_manifest(folder, read_manifest(folder))
    (folder / POSITION).unlink()
    with pytest.raises(WeightsFileError, match=r"position\.safetensors: .* \(missing"):
        refuse_damage(folder, hash_files(folder))


def test_only_the_bytes_that_were_hashed_are_loaded(folder: Path) -> None:
    manifest, files = read_manifest(folder), hash_files(folder)
    loaded = load_denoiser(folder, manifest, files).state_dict()
    for name, value in load_denoiser(folder, manifest).state_dict().items():
        assert torch.equal(loaded[name], value)
    with (folder / DENOISER).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(WeightsFileError, match="changed while it was loaded"):
        load_denoiser(folder, manifest, files)


def test_a_pickle_named_safetensors_is_refused(folder: Path) -> None:
    (folder / DENOISER).write_bytes(pickle.dumps({"weight": [1.0]}))
    with pytest.raises(WeightsFileError, match="pickles are never read"):
        load_denoiser(folder, read_manifest(folder))


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    other = read_manifest(folder).model_copy(update={"num_classes": 5})
    with pytest.raises(WeightsFileError, match="another architecture"):
        load_denoiser(folder, other)


@pytest.mark.parametrize("name", [CONFIG, AUTOENCODER, DENOISER])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    manifest = read_manifest(folder)
    (folder / name).unlink()
    with pytest.raises(WeightsFileError, match=name):
        weights_sha256(folder)
    loader: dict[str, Callable[..., object]] = {
        CONFIG: lambda f, _: read_manifest(f),
        AUTOENCODER: load_autoencoder,
    }
    with pytest.raises(WeightsFileError, match=name):
        loader.get(name, load_denoiser)(folder, manifest)


def test_a_broken_configuration_is_refused(folder: Path) -> None:
    (folder / CONFIG).write_text('{"preset": 3}')
    with pytest.raises(WeightsFileError, match="not a model configuration"):
        read_manifest(folder)


def test_the_committed_demo_weights_load_with_todays_code() -> None:
    folder = Path(__file__).parents[2] / "weights" / "demo_abdomen"
    manifest = read_manifest(folder)
    assert manifest.preset.denoiser.conditioning == "concatenate"
    assert manifest.preset.denoiser == PRESETS["demo"].denoiser
    assert load_denoiser(folder, manifest).control is None
    load_autoencoder(folder, manifest)
