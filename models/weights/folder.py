"""A weights folder: config.json, autoencoder.safetensors, denoiser.safetensors (EMA), README.md.

Where the position model (the paper's IG) was trained, position.safetensors lies beside them; where
the denoiser attends to tokens of a vision tower, so does that tower, image_encoder.safetensors. The
only file format of `models/`; what needs no network stands in `manifest.py`. Pickles are never
read. Tensors are stored as float16 to keep folders small (the tower, which is not ours, as float32)
and computed with as float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import nn

from models.autoencoder import Autoencoder
from models.denoiser.position import PositionModel
from models.denoiser.unet import Denoiser
from models.errors import WeightsFileError
from models.image_encoder import ImageTower
from models.presets import TowerSpec
from models.weights.manifest import (
    AUTOENCODER,
    CONFIG,
    DENOISER,
    IMAGE_ENCODER,
    POSITION,
    Manifest,
    read_manifest,
    sync,
    weights_sha256,
    write_manifest,
)

__all__ = [
    "AUTOENCODER",
    "CONFIG",
    "DENOISER",
    "IMAGE_ENCODER",
    "POSITION",
    "Manifest",
    "WeightsFileError",
    "check_files",
    "load_autoencoder",
    "load_denoiser",
    "load_position",
    "load_tower",
    "read_manifest",
    "save_weights",
    "weights_sha256",
    "write_manifest",
]


def load_autoencoder(
    folder: Path, manifest: Manifest, files: Mapping[str, str] | None = None
) -> Autoencoder:
    """Autoencoder in float32 evaluation mode.

    Args:
        folder: the weights.
        manifest: of the weights.
        files: what `hash_files` found; bytes that are others by now are refused. None does not ask.

    Raises:
        WeightsFileError: the file cannot be used.
    """
    model = Autoencoder(manifest.preset.autoencoder)
    _load_into(model, folder / AUTOENCODER, files)
    return model.eval()


def load_denoiser(
    folder: Path, manifest: Manifest, files: Mapping[str, str] | None = None
) -> Denoiser:
    """EMA denoiser in float32 evaluation mode; see `load_autoencoder`."""
    model = Denoiser(manifest.preset, manifest.num_classes)
    _load_into(model, folder / DENOISER, files)
    return model.eval()


def load_position(
    folder: Path, manifest: Manifest, files: Mapping[str, str] | None = None
) -> PositionModel:
    """EMA position model in float32 evaluation mode.

    Raises:
        WeightsFileError: the preset has no position model, or its file cannot be used.
    """
    if manifest.preset.position is None:
        raise WeightsFileError(
            f"{folder / CONFIG}: preset {manifest.preset.name} has no position model; train the "
            "stage position first"
        )
    model = PositionModel(manifest.preset)
    _load_into(model, folder / POSITION, files)
    return model.eval()


def load_tower(
    folder: Path, manifest: Manifest, files: Mapping[str, str] | None = None
) -> ImageTower | None:
    """The frozen vision tower that the denoiser was trained with; None where it takes no tokens.

    Raises:
        WeightsFileError: the denoiser needs one and the folder has none that fits.
    """
    if manifest.preset.denoiser.image_token_width is None:
        return None
    tower = ImageTower(_tower_spec(folder, manifest))
    _load_into(tower, folder / IMAGE_ENCODER, files)
    return tower.requires_grad_(False).eval()


def save_weights(
    path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype = torch.float16
) -> None:
    """Store floating tensors as `dtype`, whole or not at all, also after a power cut.

    Raises:
        WeightsFileError: the file reads back otherwise than it was written.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for name, value in state.items()
    }
    staged = path.with_name(f".{path.name}.new")
    save_file(stored, staged)
    staged.chmod(0o644)  # safetensors makes files that only their owner can read
    sync(staged)
    _read_back(staged, stored)
    staged.replace(path)
    sync(path.parent)


def _read_back(path: Path, stored: dict[str, torch.Tensor]) -> None:
    """Compare a file with what was written to it."""
    with _opened(path) as found:
        names = set(found.keys())
        same = names == stored.keys() and all(
            torch.equal(
                found.get_tensor(name).view(-1).view(torch.uint8), value.view(-1).view(torch.uint8)
            )
            for name, value in stored.items()
        )
    if not same:
        raise WeightsFileError(
            f"{path}: reads back otherwise than it was written; check the disk, and start again"
        )


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare names and shapes in the files with the architecture; reads their headers alone.

    Raises:
        WeightsFileError: a file is missing, damaged, or of another architecture.
    """
    with torch.device("meta"):
        models: dict[str, nn.Module] = {
            AUTOENCODER: Autoencoder(manifest.preset.autoencoder),
            DENOISER: Denoiser(manifest.preset, manifest.num_classes),
        }
        if manifest.preset.position is not None and (folder / POSITION).is_file():
            models[POSITION] = PositionModel(manifest.preset)
        if manifest.preset.denoiser.image_token_width is not None:
            models[IMAGE_ENCODER] = ImageTower(_tower_spec(folder, manifest))
    for name, model in models.items():
        path = folder / name
        with _opened(path) as stored:
            shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
        _compare(path, shapes, {key: tuple(t.shape) for key, t in model.state_dict().items()})


def _tower_spec(folder: Path, manifest: Manifest) -> TowerSpec:
    spec, width = manifest.image_encoder, manifest.preset.denoiser.image_token_width
    if spec is None:
        raise WeightsFileError(
            f"{folder / CONFIG}: preset {manifest.preset.name} attends to tokens of a vision tower "
            "and names none; train its last stage again with image_encoder, the tower's folder"
        )
    if spec.hidden_size != width:
        raise WeightsFileError(
            f"{folder / CONFIG}: a vision tower with tokens of width {spec.hidden_size} for a "
            f"denoiser that takes {width}; use its own tower"
        )
    return spec


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise WeightsFileError(f"{path}: not found; train that stage first")
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise WeightsFileError(
            f"{path}: not a safetensors file ({error}); pickles are never read"
        ) from None


def _compare(
    path: Path, stored: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> None:
    wrong = [name for name, shape in wanted.items() if stored.get(name) != shape]
    extra = [name for name in stored if name not in wanted]
    if wrong or extra:
        raise WeightsFileError(
            f"{path}: made for another architecture: {len(wrong)} tensors missing or of another "
            f"shape, {len(extra)} unknown (first: {(wrong + extra)[0]}); use its own config.json"
        )


def _load_into(model: nn.Module, path: Path, files: Mapping[str, str] | None) -> None:
    """Load a file; where `files` names its sha256, only the bytes that have it."""
    state = _state(path) if files is None else _checked_state(path, files)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    _compare(path, shapes, {name: tuple(t.shape) for name, t in model.state_dict().items()})
    model.load_state_dict({name: value.float() for name, value in state.items()})


def _state(path: Path) -> dict[str, torch.Tensor]:
    with _opened(path) as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def _checked_state(path: Path, files: Mapping[str, str]) -> dict[str, torch.Tensor]:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != files.get(path.name):
            raise WeightsFileError(
                f"{path}: changed while it was loaded; wait until nothing writes to the folder"
            )
        return load(data)
    except FileNotFoundError:
        raise WeightsFileError(
            f"{path}: not found; restore the folder, or train that stage"
        ) from None
    except OSError as error:
        raise WeightsFileError(f"{path}: cannot be read ({error.strerror})") from None
    except SafetensorError as error:
        raise WeightsFileError(f"{path}: not a safetensors file ({error})") from None
