"""A weights folder: config.json, autoencoder.safetensors, denoiser.safetensors (EMA), README.md.

Where the position model (the paper's IG) was trained, position.safetensors lies beside them; where
the denoiser attends to tokens of a vision tower, so does that tower, image_encoder.safetensors. The
only file format of `models/`. Pickles are never read. Tensors are stored as float16 to keep folders
small (the tower, which is not ours, as float32) and computed with as float32.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from models.autoencoder import Autoencoder
from models.denoiser import Denoiser
from models.errors import WeightsFileError as WeightsFileError
from models.image_encoder import ImageTower, TowerSpec
from models.position import PositionModel
from models.presets import Preset

CONFIG, AUTOENCODER, DENOISER = "config.json", "autoencoder.safetensors", "denoiser.safetensors"
POSITION, IMAGE_ENCODER = "position.safetensors", "image_encoder.safetensors"
OPTIONAL = (POSITION, IMAGE_ENCODER)


class Manifest(BaseModel):
    """What a weights folder is for; `config.json`.

    Attributes:
        preset: the whole architecture.
        num_classes: mask classes, background not counted.
        class_names: names of classes 1..num_classes.
        schedule: settings of the diffusion (engine.sampling.schedule.ScheduleConfig as a mapping).
        spacing_mm_yx: in-plane spacing of the training grid.
        modality: "ct" or "mr".
        num_inference_steps: denoising steps a window at which these weights were found best; 5
            until somebody has looked (benchmarks/results: more were never better).
        solver: with which they were found best, or which they were distilled for
            (engine.sampling.config.SolverName); None leaves it to the sampler.
        image_encoder: architecture of the vision tower that the denoiser was trained with, where it
            attends to image tokens (`DenoiserSpec.image_token_width`).
        stages: how each stage was trained (iterations, cases, condition_dropout ...), by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    preset: Preset
    num_classes: int
    class_names: tuple[str, ...]
    schedule: dict[str, Any]
    spacing_mm_yx: float
    modality: str
    num_inference_steps: int = 5
    solver: str | None = None
    image_encoder: TowerSpec | None = None
    stages: dict[str, dict[str, Any]] = {}

    @property
    def condition_dropout(self) -> float:
        """Share of the denoiser's last training examples that had no conditions; 0 if unknown."""
        last = next((s for s in ("distill", "volume", "slice") if s in self.stages), None)
        share = self.stages[last].get("condition_dropout") if last else None
        return float(share) if isinstance(share, int | float) else 0.0


def read_manifest(folder: Path) -> Manifest:
    """Read `config.json`.

    Raises:
        WeightsFileError: missing, not JSON, or of another format.
    """
    path = folder / CONFIG
    try:
        return Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        raise WeightsFileError(f"{path}: not found; give a folder made by train_model") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, not a manifest
        raise WeightsFileError(
            f"{path}: not a model configuration ({error}); restore it from where it was trained"
        ) from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `config.json` whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f".{CONFIG}.new"
    staged.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    staged.replace(folder / CONFIG)


def load_autoencoder(folder: Path, manifest: Manifest) -> Autoencoder:
    """Autoencoder in float32 evaluation mode."""
    model = Autoencoder(manifest.preset.autoencoder)
    _load_into(model, folder / AUTOENCODER)
    return model.eval()


def load_denoiser(folder: Path, manifest: Manifest) -> Denoiser:
    """EMA denoiser in float32 evaluation mode."""
    model = Denoiser(manifest.preset, manifest.num_classes)
    _load_into(model, folder / DENOISER)
    return model.eval()


def load_position(folder: Path, manifest: Manifest) -> PositionModel:
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
    _load_into(model, folder / POSITION)
    return model.eval()


def load_tower(folder: Path, manifest: Manifest) -> ImageTower | None:
    """The frozen vision tower that the denoiser was trained with; None where it takes no tokens.

    Raises:
        WeightsFileError: the denoiser needs one and the folder has none that fits.
    """
    if manifest.preset.denoiser.image_token_width is None:
        return None
    tower = ImageTower(_tower_spec(folder, manifest))
    _load_into(tower, folder / IMAGE_ENCODER)
    return tower.requires_grad_(False).eval()


def save_weights(
    path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype = torch.float16
) -> None:
    """Store floating tensors as `dtype`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for name, value in state.items()
    }
    staged = path.with_name(f".{path.name}.new")
    save_file(stored, staged)
    staged.replace(path)


def weights_sha256(folder: Path) -> str:
    """One digest over config and tensors, in a fixed order; names the weights in provenance.

    A position model and a vision tower count where there are any.
    """
    digest = hashlib.sha256()
    optional = [name for name in OPTIONAL if (folder / name).is_file()]
    for name in (CONFIG, AUTOENCODER, DENOISER, *optional):
        path = folder / name
        if not path.is_file():
            raise WeightsFileError(f"{path}: not found; give a folder made by train_model")
        digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


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


def _load_into(model: nn.Module, path: Path) -> None:
    with _opened(path) as stored:
        state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    _compare(path, shapes, {name: tuple(t.shape) for name, t in model.state_dict().items()})
    model.load_state_dict({name: value.float() for name, value in state.items()})
