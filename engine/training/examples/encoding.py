"""One case into what the stages train on: latents for the denoisers, pixels for the autoencoder.

Means and log-variances are kept, never one draw, so that every epoch sees other posterior samples.
Knows neither Ray nor when this is done (cache.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import TrainingError
from engine.storage.zarr_groups.array_store import StoredArrays, write_arrays
from engine.training.examples.augment import InPlaneMove, apply_move
from engine.volumes.prepared.store import read_prepared
from models.autoencoder import Autoencoder
from models.conditions import Conditions
from models.image_encoder import ImageTower
from models.mask_encoding import class_appearance, encode_mask
from models.presets import Preset

ENCODE_BATCH = 16


@dataclass(frozen=True)
class LatentCase:
    """One case in latents; from a cache these are maps of files, read where they are touched.

    Attributes:
        case_id: of the prepared case, or of a moved copy (`case+1`).
        mean: `z c h w`, float32 scaled latents.
        log_variance: `z c h w`, float16.
        mask: `z k h w` float16 condition channels.
        appearance: `z 2 k` float32, mean intensity and presence of each class in each slice.
        classes: those that its mask has somewhere.
        tokens: `z t k` float16 image embedding of each slice, where a preset asks for it.
    """

    case_id: str
    mean: Tensor
    log_variance: Tensor
    mask: Tensor
    appearance: Tensor
    classes: tuple[int, ...] = ()
    tokens: Tensor | None = None

    @property
    def num_slices(self) -> int:
        """Z of the prepared case."""
        return len(self.mean)

    def conditions(self, source: int, informed: Tensor, *, classes_known: bool) -> Conditions:
        """Of all slices, with slice `source` as the informed one.

        Args:
            source: z of the informed slice.
            informed: `1 c h w`, its latents.
            classes_known: whether its mask is known.
        """
        there = slice(source, source + 1)
        appearance = self.appearance[there] * float(classes_known)
        tokens = None if self.tokens is None else self.tokens[there]
        height = source / max(self.num_slices - 1, 1)
        return Conditions.of_volume(self.mask, informed, height, appearance, tokens)

    @classmethod
    def of(cls, stored: StoredArrays) -> LatentCase:
        """The case in a folder of the cache."""
        fields = {name: torch.from_numpy(array) for name, array in stored.arrays.items()}
        classes = tuple(stored.attributes["classes"])
        return cls(case_id=stored.attributes["name"], classes=classes, **fields)


@dataclass(frozen=True)
class EncodeTask:
    """One folder of a cache that has to be made.

    Attributes:
        name: of the case or copy.
        source: the prepared case.
        target: folder to write.
        key: what it depends on.
        move: what the copy is moved by.
    """

    name: str
    source: Path
    target: Path
    key: str
    move: InPlaneMove


def encode_latents(
    task: EncodeTask,
    autoencoder: Autoencoder,
    preset: Preset,
    num_classes: int,
    tower: ImageTower | None = None,
) -> None:
    """Encode one case or copy and write it into the cache."""
    images, masks = _planes(task)
    arrays = latent_arrays(images, masks, autoencoder, preset, num_classes)
    if tower is not None:
        arrays["tokens"] = image_tokens(images, tower)
    classes = [int(k) for k in np.unique(masks.numpy()) if k > 0]
    write_arrays(task.target, task.key, arrays, {**_attributes(task), "classes": classes})


def write_pixels(task: EncodeTask) -> None:
    """Write one case's image as float16, for random crops without reading whole volumes."""
    images, _ = _planes(task)
    write_arrays(task.target, task.key, {"image": images.half().numpy()}, _attributes(task))


@torch.no_grad()
def latent_arrays(
    images: Tensor,
    masks: Tensor,
    autoencoder: Autoencoder,
    preset: Preset,
    num_classes: int,
    threads: int = 1,
) -> dict[str, Any]:
    """Encode slices in bounded batches.

    Args:
        images: `z y x` in [-1, 1].
        masks: `z y x` integer classes.
        autoencoder: on any device; the results come back.
        preset: tells the encoding of masks.
        num_classes: background not counted.
        threads: of the CPU; with one, sums come out in one order, so that a cache has the same
            bytes however it was made.

    Returns:
        Arrays of `LatentCase` by name.
    """
    device = next(autoencoder.parameters()).device
    with _num_threads(threads):
        return _encoded(images, masks, autoencoder, preset, num_classes, device)


def _encoded(
    images: Tensor,
    masks: Tensor,
    autoencoder: Autoencoder,
    preset: Preset,
    num_classes: int,
    device: torch.device,
) -> dict[str, Any]:
    means, log_variances, encoded = [], [], []
    for image, mask in zip(*(torch.split(x, ENCODE_BATCH) for x in (images, masks)), strict=True):
        moments = autoencoder.encode(image[:, None].to(device))
        means.append(moments.mean.cpu())
        log_variances.append(moments.log_variance.half().cpu())
        channels = encode_mask(mask.to(device), preset, num_classes, autoencoder)
        encoded.append(channels.half().cpu())
    return {
        "mean": torch.cat(means).numpy(),
        "log_variance": torch.cat(log_variances).numpy(),
        "mask": torch.cat(encoded).numpy(),
        "appearance": class_appearance(images, masks, num_classes).numpy(),
    }


@torch.no_grad()
def image_tokens(images: Tensor, tower: ImageTower) -> NDArray[np.float16]:
    """Embedding of every slice that may become an informed one, `z t k`."""
    device = next(tower.parameters()).device
    parts = [tower(part[:, None].to(device)).cpu() for part in torch.split(images, ENCODE_BATCH)]
    return np.asarray(torch.cat(parts).half().numpy())


def _planes(task: EncodeTask) -> tuple[Tensor, Tensor]:
    case = read_prepared(task.source)
    if case.image is None:
        raise TrainingError(f"{case.case_id}: has no image; train on cases with images")
    images = apply_move(torch.from_numpy(case.image), task.move, labels=False)
    return images, apply_move(torch.from_numpy(case.mask), task.move, labels=True)


@contextmanager
def _num_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _attributes(task: EncodeTask) -> dict[str, Any]:
    return {"name": task.name, "move": task.move.as_record()}
