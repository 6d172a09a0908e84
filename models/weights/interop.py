"""Autoencoders in and out: diffusers folders, and the checkpoint layout of LDM (KL-f8).

The network is our Autoencoder either way; only names and shapes of tensors are mapped. A foreign
latent scale belongs to its own images, so the scale is 1 until it is measured on the data
(`Autoencoder.set_statistics`). Knows nothing of the denoiser.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from models.autoencoder import Autoencoder
from models.errors import WeightsFileError
from models.presets import AutoencoderSpec
from models.weights.tensor_files import read_tensors, refuse_misfits

DIFFUSERS_CONFIG, DIFFUSERS_WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_FIRST_STAGE = "first_stage_model."
# Of an LDM autoencoder checkpoint, what only its training needs.
_TRAINING_ONLY = ("loss.", "model_ema.")
# Names in a diffusers folder of before 0.17.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_ATTENTION = re.compile(r"(.*mid_block\.attentions\.0\.)(query|key|value|proj_attn)\.(.*)")

# LDM name -> diffusers name. Levels of the decoder count the other way: `_name_from_ldm` mirrors.
_LDM_PARTS = {
    r"(encoder|decoder)\.(conv_in|conv_out)": r"\1.\2",
    r"(encoder|decoder)\.norm_out": r"\1.conv_norm_out",
    r"(quant_conv|post_quant_conv)": r"\1",
    r"encoder\.down\.(\d+)\.block\.(\d+)\.(\w+)": r"encoder.down_blocks.\1.resnets.\2.\3",
    r"encoder\.down\.(\d+)\.downsample\.conv": r"encoder.down_blocks.\1.downsamplers.0.conv",
    r"decoder\.up\.(\d+)\.block\.(\d+)\.(\w+)": r"decoder.up_blocks.\1.resnets.\2.\3",
    r"decoder\.up\.(\d+)\.upsample\.conv": r"decoder.up_blocks.\1.upsamplers.0.conv",
    r"(encoder|decoder)\.mid\.block_1\.(\w+)": r"\1.mid_block.resnets.0.\2",
    r"(encoder|decoder)\.mid\.block_2\.(\w+)": r"\1.mid_block.resnets.1.\2",
    r"(encoder|decoder)\.mid\.attn_1\.norm": r"\1.mid_block.attentions.0.group_norm",
    r"(encoder|decoder)\.mid\.attn_1\.([qkv])": r"\1.mid_block.attentions.0.to_\2",
    r"(encoder|decoder)\.mid\.attn_1\.proj_out": r"\1.mid_block.attentions.0.to_out.0",
}


class _DiffusersConfig(BaseModel):
    """What of an AutoencoderKL's config.json our Autoencoder can be; all else is refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: Annotated[tuple[int, ...], Field(min_length=1)] = (64,)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",)
    act_fn: Literal["silu"] = "silu"
    use_quant_conv: Literal[True] = True
    use_post_quant_conv: Literal[True] = True
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None

    def spec(self) -> AutoencoderSpec:
        if self.in_channels != self.out_channels or self.in_channels not in (1, 3):
            raise ValueError(f"{self.in_channels} channels in and {self.out_channels} out: 1 or 3")
        return AutoencoderSpec(
            image_channels=self.in_channels,
            latent_channels=self.latent_channels,
            block_channels=self.block_out_channels,
            num_layers=self.layers_per_block,
            mid_attention=self.mid_block_add_attention,
            norm_groups=self.norm_num_groups,
        )


def load_diffusers_autoencoder(folder: Path) -> Autoencoder:
    """An `AutoencoderKL` folder (config.json, safetensors) as our Autoencoder, float32, evaluation.

    `latents_mean` and `latents_std` are taken where the configuration has them;
    `scaling_factor` is not.

    Raises:
        WeightsFileError: files missing, another kind of autoencoder, or tensors that do not fit.
    """
    path = folder / DIFFUSERS_CONFIG
    try:
        config = _DiffusersConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
        model = Autoencoder(config.spec())
    except OSError:
        raise WeightsFileError(f"{path}: not found; give a folder of an AutoencoderKL") from None
    except (ValueError, ValidationError) as error:
        raise WeightsFileError(f"{path}: not an AutoencoderKL we can be ({error})") from None
    source = folder / DIFFUSERS_WEIGHTS
    found = {_modern_name(name): value for name, value in read_tensors(source).items()}
    _fill(model, found, source)
    if config.latents_mean is not None and config.latents_std is not None:
        statistics = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
        if any(s.shape != model.scale.shape for s in statistics) or (statistics[1] <= 0).any():
            raise WeightsFileError(f"{path}: latents_mean and latents_std do not fit the latents")
        model.set_statistics(*statistics)
    return model


def save_diffusers_autoencoder(model: Autoencoder, folder: Path) -> None:
    """Write `model` as a folder that `diffusers.AutoencoderKL.from_pretrained` reads.

    Scale and offset go into `latents_mean` and `latents_std`; `scaling_factor` is their mean.

    Raises:
        WeightsFileError: `folder` is there already.
    """
    if folder.exists():
        raise WeightsFileError(f"{folder}: exists; give a new folder")
    staged = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    model.net.save_pretrained(staged, safe_serialization=True)
    path = staged / DIFFUSERS_CONFIG
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config |= {
        "latents_mean": model.offset.tolist(),
        "latents_std": (1.0 / model.scale).tolist(),
        "scaling_factor": float(model.scale.mean()),
    }
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    staged.replace(folder)


def load_ldm_autoencoder(path: Path, norm_groups: int = 32) -> Autoencoder:
    """A KL autoencoder checkpoint of latent diffusion: bare, or as `first_stage_model.*`.

    The architecture is read off the shapes; only `norm_groups` does not show in them.

    Raises:
        WeightsFileError: unreadable (see `read_tensors`), or tensors missing, unknown or misshapen.
    """
    return ldm_autoencoder(read_tensors(path), path, norm_groups)


def ldm_autoencoder(state: Mapping[str, Tensor], path: Path, norm_groups: int = 32) -> Autoencoder:
    """As `load_ldm_autoencoder`, from tensors already read from `path`."""
    if any(name.startswith(_FIRST_STAGE) for name in state):
        state = {
            name.removeprefix(_FIRST_STAGE): value
            for name, value in state.items()
            if name.startswith(_FIRST_STAGE)
        }
    state = {n: v for n, v in state.items() if not n.startswith(_TRAINING_ONLY)}
    spec = _ldm_spec(state, path, norm_groups)
    levels = len(spec.block_channels)
    found = {_name_from_ldm(name, levels): _as_linear(name, v) for name, v in state.items()}
    model = Autoencoder(spec)
    _fill(model, found, path)
    return model


def _fill(model: Autoencoder, found: Mapping[str, Tensor], path: Path) -> None:
    refuse_misfits(path, found, model.net.state_dict(), "not the architecture it says it is")
    model.net.load_state_dict({name: value.float() for name, value in found.items()})
    model.eval()


def _modern_name(name: str) -> str:
    old = _ATTENTION.fullmatch(name)
    return f"{old[1]}{_OLD_ATTENTION[old[2]]}.{old[3]}" if old else name


def _ldm_spec(state: Mapping[str, Tensor], path: Path, norm_groups: int) -> AutoencoderSpec:
    """Architecture from the shapes of an LDM checkpoint."""
    wanted = ("encoder.conv_in.weight", "post_quant_conv.weight", "encoder.down.0.block.0.")
    absent = [key for key in wanted if not any(name.startswith(key) for name in state)]
    if absent:
        raise WeightsFileError(f"{path}: no KL autoencoder of latent diffusion: no {absent[0]}")
    blocks = [re.fullmatch(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", n) for n in state]
    found = sorted((int(m[1]), int(m[2])) for m in blocks if m)
    levels = 1 + max((level for level, _ in found), default=-1)
    firsts = [state.get(f"encoder.down.{level}.block.0.conv1.weight") for level in range(levels)]
    channels = [len(first) for first in firsts if first is not None]
    if not channels or len(channels) != levels or any(c % norm_groups for c in channels):
        raise WeightsFileError(f"{path}: channels {channels} of {levels} levels, {norm_groups=}")
    image_channels = state["encoder.conv_in.weight"].shape[1]
    if image_channels not in (1, 3):
        raise WeightsFileError(f"{path}: images of {image_channels} channels; 1 or 3 are known")
    return AutoencoderSpec(
        image_channels=image_channels,
        latent_channels=len(state["post_quant_conv.weight"]),
        block_channels=tuple(channels),
        num_layers=1 + max(block for _, block in found),
        mid_attention="encoder.mid.attn_1.q.weight" in state,
        norm_groups=norm_groups,
    )


def _name_from_ldm(name: str, levels: int) -> str:
    """The name in diffusers; one that has none stays, and will be refused as unknown."""
    stem, _, kind = name.rpartition(".")
    for pattern, replacement in _LDM_PARTS.items():
        match = re.fullmatch(pattern, stem)
        if match:
            stem = match.expand(replacement).replace("nin_shortcut", "conv_shortcut")
            break
    mirrored = re.sub(
        r"(decoder\.up_blocks\.)(\d+)", lambda m: f"{m[1]}{levels - 1 - int(m[2])}", stem
    )
    return f"{mirrored}.{kind}"


def _as_linear(name: str, value: Tensor) -> Tensor:
    """LDM's attention projections are 1 x 1 convolutions, diffusers' are linear."""
    return value[:, :, 0, 0] if ".attn_1." in name and value.ndim == 4 else value
