"""Weights and cases whose content means nothing: speed depends on their size alone.

No plane of a case repeats another, because an engine may encode equal planes once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.sampling.diffusion.schedule import ScheduleConfig
from engine.volumes.nifti import fresh_header
from engine.volumes.phantoms.cohort import HELD_OUT_INDICES, prepared_phantom
from engine.volumes.prepare_config import PRESETS as GRIDS
from engine.volumes.volume import NativeGrid, PreparedCase, Volume
from models.autoencoder import Autoencoder
from models.denoiser.unet import Denoiser
from models.presets import Preset
from models.weights.folder import AUTOENCODER, DENOISER, Manifest, save_weights, write_manifest

SEED = 0
GRID_OF_SIZE = {128: "abdomen_ct", 256: "abdomen_ct_256", 512: "abdomen_ct_512"}
_GROWTH = 0.15  # by how much the last plane of a stretched case is larger than the first
_COARSER = 1.05  # edge of the native pixels over that of the model's
_BITS = 12  # of the plane's number, which stands in its corner: some small planes are equal else


def random_weights(folder: Path, preset: Preset) -> Path:
    """A weights folder as training would leave it, from a fixed seed."""
    manifest = random_manifest(preset)
    autoencoder, denoiser = random_networks(manifest)
    save_weights(folder / AUTOENCODER, autoencoder.state_dict())
    save_weights(folder / DENOISER, denoiser.state_dict())
    write_manifest(folder, manifest)
    return folder


def random_manifest(preset: Preset) -> Manifest:
    """What such a folder says of itself."""
    names = (*GRIDS["abdomen_ct"].class_names, "body")
    return Manifest(
        preset=preset,
        num_classes=len(names),
        class_names=names,
        schedule=ScheduleConfig(zero_terminal_snr=True, prediction_type="v").model_dump(),
        spacing_mm_yx=GRIDS[GRID_OF_SIZE[preset.size_px]].spacing_mm_yx,
        modality="ct",
    )


def random_networks(manifest: Manifest, device: str = "cpu") -> tuple[Autoencoder, Denoiser]:
    """Its networks, made where they are to be: a GPU makes 10^9 weights at once."""
    torch.manual_seed(SEED)
    with torch.device(device), torch.no_grad():
        denoiser = Denoiser(manifest.preset, manifest.num_classes)
        # layers that are zero at birth would be skipped by nothing, but say so
        for parameter in denoiser.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
        return Autoencoder(manifest.preset.autoencoder), denoiser


def stretched_phantom(size_px: int, num_slices: int) -> PreparedCase:
    """The first held-out phantom, stretched to any size in a second, each plane another.

    Its 128 px are enlarged without smoothing, and each plane a little more than the one before.
    Painting and preparing a phantom of 155 slices of 512 px would take minutes.
    """
    base = _phantom()
    assert base.image is not None
    rows = np.linspace(0, len(base.mask) - 1, num_slices).round().astype(int)
    growth = 1.0 + _GROWTH * np.linspace(0.0, 1.0, num_slices)
    mask = _enlarged(base.mask, rows, growth, size_px)
    _, y_mm, x_mm = base.spacing_mm_zyx
    edge_mm = GRIDS[GRID_OF_SIZE[size_px]].spacing_mm_yx
    thinner = len(base.mask) / num_slices
    affine = base.affine @ np.diag([edge_mm / x_mm, edge_mm / y_mm, thinner, 1.0])
    native, native_mask = _native(mask, affine)
    return PreparedCase(
        **{
            **vars(base),
            "image": _enlarged(base.image, rows, growth, size_px),
            "mask": mask,
            "affine": affine,
            "native": native,
            "native_mask": native_mask,
        }
    )


@cache
def _phantom() -> PreparedCase:
    """Made once a process, which takes seconds."""
    return prepared_phantom(HELD_OUT_INDICES[0], GRIDS["abdomen_ct"])


def marked(mask: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """The mask with a number in each plane's corner, so that it shares no plane with another's."""
    made = mask.copy()
    made[:, 1, :_BITS] = number >> np.arange(_BITS) & 1
    return made


def distinct_planes(planes: Iterable[NDArray[Any]]) -> int:
    """How many planes of `z y x` differ from all others."""
    return len({plane.tobytes() for plane in planes})


def shortened(case: PreparedCase, num_slices: int) -> PreparedCase:
    """The case's first slices, for a warm-up."""
    assert case.image is not None
    cut = {"image": case.image[:num_slices], "mask": case.mask[:num_slices]}
    return PreparedCase(**{**vars(case), **cut})


def _enlarged(
    planes: NDArray[Any], rows: NDArray[Any], growth: NDArray[Any], size_px: int
) -> NDArray[Any]:
    """Planes `rows` of `z y x`, enlarged about their middle, as `z size_px size_px`."""
    edge = planes.shape[1]
    places = (np.arange(size_px) + 0.5) / size_px - 0.5
    made = np.empty((len(rows), size_px, size_px), planes.dtype)
    for z, (row, factor) in enumerate(zip(rows, growth, strict=True)):
        taken = ((places / factor + 0.5) * edge).astype(int)
        made[z] = planes[row][np.ix_(taken, taken)]
        made[z, 0, :_BITS] = np.where(z >> np.arange(_BITS) & 1, 1, planes[0, 0, 0])
    return made


def _native(
    mask: NDArray[np.uint8], affine: NDArray[np.float64]
) -> tuple[NativeGrid, NDArray[np.uint8]]:
    """A grid of as many voxels, a little coarser in-plane, and the mask on it."""
    middle = (mask.shape[1] - 1) / 2
    coarser = affine @ np.diag([_COARSER, _COARSER, 1.0, 1.0])
    shift = middle - _COARSER * middle
    coarser[:3, 3] += affine[:3, :2] @ np.array([shift, shift])
    places = middle + (np.arange(mask.shape[1]) - middle) * _COARSER
    inside = (places > -0.5) & (places < mask.shape[1] - 0.5)
    taken = np.clip(places.round().astype(int), 0, mask.shape[1] - 1)
    native = mask[:, taken][:, :, taken] * (inside[:, None] & inside[None, :])
    volume = Volume(native.astype(np.uint8), coarser, "stretched phantom")
    return NativeGrid(coarser, volume.size_zyx, fresh_header(volume)), volume.array
