"""What a weights folder is for, without its networks: config.json, file names and their digest.

Imports no torch, so that who only asks what a model can do stays small.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models.presets import Preset

CONFIG, AUTOENCODER, DENOISER = "config.json", "autoencoder.safetensors", "denoiser.safetensors"
POSITION = "position.safetensors"


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
        stages: how each stage was trained (iterations, cases, seconds), by name.
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
    stages: dict[str, dict[str, Any]] = {}


class WeightsFileError(ValueError):
    """A weights folder cannot be used; the message names the file and the remedy."""


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
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise WeightsFileError(f"{path}: not a model configuration ({error})") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `config.json` whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f".{CONFIG}.new"
    staged.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    staged.replace(folder / CONFIG)


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of each file of a weights folder by name, in a fixed order, read in blocks.

    A position model counts where there is one.

    Raises:
        WeightsFileError: the folder holds no complete model.
    """
    optional = (POSITION,) if (folder / POSITION).is_file() else ()
    hashes = {}
    for name in (CONFIG, AUTOENCODER, DENOISER, *optional):
        path = folder / name
        if not path.is_file():
            raise WeightsFileError(f"{path}: not found; give a folder made by train_model")
        with path.open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def digest_of(hashes: Mapping[str, str]) -> str:
    """One digest of what `hash_files` returns; names the weights in provenance."""
    digest = hashlib.sha256()
    for name, value in hashes.items():
        digest.update(name.encode() + bytes.fromhex(value))
    return digest.hexdigest()


def weights_sha256(folder: Path) -> str:
    """One digest over config and tensors; see `hash_files`."""
    return digest_of(hash_files(folder))
