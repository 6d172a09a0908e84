"""The public GEM-3D checkpoints: their names mapped onto our denoiser.

The layout is that of latent diffusion's U-Net (`model.diffusion_model.input_blocks.N...`) with
volumetric layers beside each layer. Names and shapes were read in the public repository
(github.com/HKU-MedAI/GEM-3D); its released files themselves have not been at hand, so a file that
differs is refused, naming what differs. Equal output needs `DenoiserSpec.layout` `openai` (preset
`gem3d_512_public`), because the attention blocks differ in more than names. The public position
model is another network and is not mapped. Knows nothing of schedules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.autoencoder import Autoencoder
from models.denoiser.levels import Level, levels_of
from models.denoiser.unet import VOLUMETRIC_MARK, Denoiser
from models.errors import WeightsFileError
from models.presets import PRESETS, Preset
from models.weights.interop import ldm_autoencoder
from models.weights.tensor_files import read_tensors, refuse_misfits

# What the weights were trained with, in the words of engine.sampling.diffusion's ScheduleConfig.
PUBLIC_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "zero_terminal_snr": False,
    "prediction_type": "eps",
}
PUBLIC_LATENT_SCALE = 0.18215
_UNET, _EMA, _AUTOENCODER = "model.diffusion_model.", "model_ema.", "first_stage_model."
_NORM_GROUPS = 32

# Our name -> theirs, within a part.
_CONV = {"plane": "{}", "slices": "{}_tem.temporal_conv"}
_RES_BLOCK = {
    "norm_in": "in_layers.0",
    "conv_in.plane": "in_layers.2",
    "conv_in.slices": "in_layers_tem.temporal_conv",
    "embed": "emb_layers.1",
    "norm_out": "out_layers.0",
    "conv_out.plane": "out_layers.3",
    "conv_out.slices": "out_layers_tem.temporal_conv",
    "skip": "skip_connection",
}
_ATTENTION = {
    "norm": "norm",
    "plane.qkv": "qkv",
    "plane.out": "proj_out",
    "slices.qkv": "qkv_tem",
    "slices.out": "proj_out_tem",
}
_ENDS = {
    "time.0": "time_embed.0",
    "time.2": "time_embed.2",
    "enter.plane": "input_blocks.0.0",
    "enter.slices": "input_blocks.0.1.temporal_conv",
    "norm": "out.0",
    "leave.plane": "out.2",
    "leave.slices": "out_tem.temporal_conv",
}


@dataclass(frozen=True)
class PublicModel:
    """What a public checkpoint holds.

    Attributes:
        denoiser: in float32 and evaluation mode.
        autoencoder: the frozen one it was trained with, at its latent scale; None if not inside.
        is_volumetric: False for a stage-1 checkpoint, whose volumetric layers are at birth.
        is_ema: whether the averaged weights were there and taken.
    """

    denoiser: Denoiser
    autoencoder: Autoencoder | None
    is_volumetric: bool
    is_ema: bool


def load_public_checkpoint(
    path: Path, preset: Preset = PRESETS["gem3d_512_public"], num_classes: int = 1
) -> PublicModel:
    """Read a public checkpoint of either stage; EMA weights are preferred where they are inside.

    Args:
        path: `.ckpt` that `weights_only` reads, or safetensors.
        preset: of layout `openai`.
        num_classes: mask classes; of no consequence for the tensors of a `grey_vae` preset.

    Raises:
        ValueError: the preset is not of that layout.
        WeightsFileError: unreadable, or tensors missing, unknown or of another shape (named).
    """
    state = read_tensors(path)
    own, is_ema = _unet_tensors(state, path)
    denoiser = Denoiser(preset, num_classes)
    is_volumetric = fill_denoiser(denoiser, own, path)
    autoencoder = None
    if any(name.startswith(_AUTOENCODER) for name in state):
        autoencoder = ldm_autoencoder(state, path, preset.autoencoder.norm_groups)
        if autoencoder.spec != preset.autoencoder:
            raise WeightsFileError(f"{path}: its autoencoder is not that of {preset.name}")
        zeros = torch.zeros_like(autoencoder.offset)
        autoencoder.set_statistics(zeros, zeros + 1.0 / PUBLIC_LATENT_SCALE)
    return PublicModel(denoiser.eval(), autoencoder, is_volumetric, is_ema)


def fill_denoiser(denoiser: Denoiser, state: Mapping[str, Tensor], path: Path) -> bool:
    """Load tensors of the public layout into `denoiser`, and tell whether volumetric ones came.

    Args:
        denoiser: of layout `openai` and conditioning `concatenate`.
        state: names without the `model.diffusion_model.` prefix.
        path: where they are from; named in errors.

    Raises:
        ValueError: the denoiser cannot be of that layout.
        WeightsFileError: tensors missing, unknown or of another shape; nothing has been loaded.
    """
    _check_layout(denoiser)
    wanted = denoiser.state_dict()
    names = {theirs: ours for ours, theirs in public_names(denoiser)}
    volumetric = {theirs for theirs, ours in names.items() if VOLUMETRIC_MARK in f".{ours}"}
    has_volumetric = any("_tem." in name or "temporal_conv" in name for name in state)
    expected = {
        theirs: _in_their_shape(theirs, wanted[ours])
        for theirs, ours in names.items()
        if has_volumetric or theirs not in volumetric
    }
    refuse_misfits(path, state, expected, "not a public GEM-3D denoiser of this preset")
    loaded = {
        names[theirs]: v.float().reshape(wanted[names[theirs]].shape) for theirs, v in state.items()
    }
    denoiser.load_state_dict(wanted | loaded)
    return has_volumetric


def public_names(denoiser: Denoiser) -> Iterator[tuple[str, str]]:
    """Pairs of our parameter name and theirs, for every parameter of `denoiser`."""
    table = dict(_ENDS)
    count = 1
    for i, level in enumerate(levels_of(denoiser.down)):
        for j in range(len(level.blocks)):
            table |= _block(level, f"down.{i}", j, f"input_blocks.{count}.")
            count += 1
        if level.resize is not None:
            table |= _convolution(f"down.{i}.resize.conv", f"input_blocks.{count}.0.op")
            count += 1
    table |= _part("middle.blocks.0", _RES_BLOCK, "middle_block.0")
    table |= _part("middle.attentions.0", _ATTENTION, "middle_block.1")
    table |= _part("middle.blocks.1", _RES_BLOCK, "middle_block.2")
    count = 0
    for i, level in enumerate(levels_of(denoiser.up)):
        for j in range(len(level.blocks)):
            table |= _block(level, f"up.{i}", j, f"output_blocks.{count}.")
            count += 1
        if level.resize is not None:
            place = 1 + _has_attention(level, len(level.blocks) - 1)
            theirs = f"output_blocks.{count - 1}.{place}.conv"
            table |= _convolution(f"up.{i}.resize.conv", theirs)
    for name, _ in denoiser.named_parameters():
        stem, _, kind = name.rpartition(".")
        yield name, f"{table[stem]}.{kind}"


def _block(level: Level, ours: str, index: int, theirs: str) -> dict[str, str]:
    """A residual block and the attention behind it, where there is one."""
    table = _part(f"{ours}.blocks.{index}", _RES_BLOCK, f"{theirs}0")
    if _has_attention(level, index):
        table |= _part(f"{ours}.attentions.{index}", _ATTENTION, f"{theirs}1")
    return table


def _part(ours: str, table: Mapping[str, str], theirs: str) -> dict[str, str]:
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in table.items()}


def _convolution(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{a}": b.format(theirs) for a, b in _CONV.items()}


def _has_attention(level: Level, index: int) -> bool:
    return not isinstance(level.attentions[index], nn.Identity)


def _in_their_shape(name: str, ours: Tensor) -> Tensor:
    """Their projections of attention are convolutions of kernel 1."""
    is_projection = name.rpartition(".")[0].endswith(tuple(_ATTENTION.values())[1:])
    return ours[..., None] if is_projection and ours.ndim == 2 else ours


def _unet_tensors(state: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], bool]:
    """The U-Net's tensors without their prefix, averaged ones where there are, and which."""
    found = {n.removeprefix(_UNET): v for n, v in state.items() if n.startswith(_UNET)}
    if not found:
        raise WeightsFileError(f"{path}: no tensor named {_UNET}*: no GEM-3D denoiser")
    # The average is kept under the name without dots, of the module inside `model`.
    averaged = {
        name: state.get(_EMA + f"diffusion_model.{name}".replace(".", "")) for name in found
    }
    whole = {name: value for name, value in averaged.items() if value is not None}
    is_ema = len(whole) == len(found)
    if whole and not is_ema:
        absent = next(name for name, value in averaged.items() if value is None)
        raise WeightsFileError(f"{path}: averaged weights lack {absent}; the file is not whole")
    return (whole, True) if is_ema else (found, False)


def _check_layout(denoiser: Denoiser) -> None:
    spec = denoiser.preset.denoiser
    if spec.layout != "openai" or spec.conditioning != "concatenate":
        raise ValueError(
            f"preset {denoiser.preset.name}: public weights need layout openai and conditioning "
            f"concatenate, not {spec.layout} and {spec.conditioning}"
        )
    extras = ("style_embedding", "position_embedding", "class_intensity_input")
    wrong = [name for name in extras if getattr(spec, name)]
    groups = {m.num_groups for m in denoiser.modules() if isinstance(m, nn.GroupNorm)}
    if wrong or groups != {_NORM_GROUPS}:
        raise ValueError(
            f"preset {denoiser.preset.name}: public weights know no {', '.join(wrong) or 'such'} "
            f"and have {_NORM_GROUPS} groups in every norm, not {sorted(groups)}"
        )
