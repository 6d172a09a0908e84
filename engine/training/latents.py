"""The latent cache: what the denoiser stages train on, encoded once.

Means and log-variances are kept (never one draw), beside the class maps. A cache file belongs to
one autoencoder and one prepared case and is made anew when either changes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.log import get_logger
from engine.volumes.store import list_prepared, read_prepared
from engine.volumes.volume import PreparedCase
from models.autoencoder import Autoencoder
from models.conditioning import class_appearance, encode_mask
from models.presets import Preset

log = get_logger(__name__)
ENCODE_BATCH = 16


@dataclass(frozen=True)
class LatentCase:
    """One case in latents.

    Attributes:
        case_id: of the prepared case.
        mean: `z c h w`, float32 scaled latents.
        log_variance: `z c h w`, float16.
        mask: `z k h w` float16 condition channels.
        appearance: `z 2 k` float32, mean intensity and presence of each class in each slice.
    """

    case_id: str
    mean: Tensor
    log_variance: Tensor
    mask: Tensor
    appearance: Tensor

    @property
    def num_slices(self) -> int:
        """Z of the prepared case."""
        return len(self.mean)


def load_cases(folder: Path, holdout: tuple[str, ...]) -> list[PreparedCase]:
    """Prepared training cases, without those held out."""
    names = [name for name in list_prepared(folder) if name not in holdout]
    return [read_prepared(folder / f"{name}.zarr") for name in names]


def cached_latents(
    cases: list[PreparedCase],
    autoencoder: Autoencoder,
    preset: Preset,
    num_classes: int,
    cache: Path,
) -> list[LatentCase]:
    """Latents of all cases, from `cache` where they are still valid."""
    denoiser = preset.denoiser
    encoding = f"{denoiser.mask_encoding} {denoiser.mask_subpixels} {preset.size_px} {num_classes}"
    key = f"latents/2 {encoding} {_state_digest(autoencoder)}"
    cache.mkdir(parents=True, exist_ok=True)
    result = []
    for case in cases:
        path, wanted = cache / f"{case.case_id}.safetensors", _case_key(case, key)
        stored = _read(path, wanted, case.case_id)
        if stored is None:
            stored = encode_case(case, autoencoder, preset, num_classes)
            _write(path, wanted, stored)
        result.append(stored)
    log.info("latents of %d cases ready", len(result))
    return result


@torch.no_grad()
def encode_case(
    case: PreparedCase, autoencoder: Autoencoder, preset: Preset, num_classes: int
) -> LatentCase:
    """Encode image and mask of one case, slice by slice in bounded batches."""
    assert case.image is not None
    images = torch.from_numpy(case.image)[:, None]
    masks = torch.from_numpy(case.mask)
    moments = [autoencoder.encode(part) for part in torch.split(images, ENCODE_BATCH)]
    encoded = [
        encode_mask(part, preset, num_classes, autoencoder)
        for part in torch.split(masks, ENCODE_BATCH)
    ]
    return LatentCase(
        case_id=case.case_id,
        mean=torch.cat([m.mean for m in moments]),
        log_variance=torch.cat([m.log_variance for m in moments]).half(),
        mask=torch.cat(encoded).half(),
        appearance=class_appearance(images[:, 0], masks, num_classes),
    )


def _state_digest(autoencoder: Autoencoder) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def _case_key(case: PreparedCase, key: str) -> str:
    assert case.image is not None
    digest = hashlib.sha256(key.encode() + case.image.tobytes() + case.mask.tobytes())
    return digest.hexdigest()


def _read(path: Path, key: str, case_id: str) -> LatentCase | None:
    try:
        with safe_open(path, "pt") as stored:
            if (stored.metadata() or {}).get("key") != key:
                return None
            return LatentCase(
                case_id,
                stored.get_tensor("mean"),
                stored.get_tensor("log_variance"),
                stored.get_tensor("mask"),
                stored.get_tensor("appearance"),
            )
    except (OSError, SafetensorError, json.JSONDecodeError):
        return None


def _write(path: Path, key: str, case: LatentCase) -> None:
    tensors = {k: v for k, v in vars(case).items() if k != "case_id"}
    staged = path.with_suffix(".new")
    save_file({k: v.contiguous() for k, v in tensors.items()}, staged, metadata={"key": key})
    staged.replace(path)
