"""CLIP's vision tower (arXiv:2103.00020): an image -> tokens for `image_attention`.

Reads a local folder in the layout of Hugging Face's `CLIPVisionModel` or `CLIPModel`: `config.json`
and `model.safetensors` with `vision_model.*`. Frozen: only the denoiser's cross-attention
learns. Knows nothing of the denoiser.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from einops import rearrange
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from models.denoiser.attention import attend
from models.errors import WeightsFileError
from models.presets import TowerSpec
from models.weights.tensor_files import read_tensors, refuse_misfits

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_PREFIX = "vision_model."
# Parts of a whole CLIP model that make no patch tokens.
_UNUSED = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
_UNUSED_OF_TOWER = ("post_layernorm.weight", "post_layernorm.bias", "embeddings.position_ids")


class ImageTower(nn.Module):
    """Vision transformer of CLIP without its pooled head.

    Parameter names are those of the layout, so that its files load as they are.
    """

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = _Embeddings(spec)
        self.pre_layrnorm = nn.LayerNorm(spec.hidden_size, spec.layer_norm_eps)
        self.encoder = _Encoder(spec)

    @property
    def token_width(self) -> int:
        """Goes into `DenoiserSpec.image_token_width`."""
        return self.spec.hidden_size

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """`b 1 y x` in [-1, 1] -> `b t c`: class token, then patches (last hidden state)."""
        tokens = self.embeddings(self._prepare(images))
        return torch.as_tensor(self.encoder(self.pre_layrnorm(tokens)))

    def _prepare(self, images: Tensor) -> Tensor:
        """Grey [-1, 1] -> CLIP's normalised RGB at its size."""
        size = (self.spec.image_size, self.spec.image_size)
        grey = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1.0, 1.0)
        rgb = ((grey + 1.0) / 2.0).expand(-1, 3, -1, -1)
        mean, std = (rgb.new_tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        return (rgb - mean) / std


def load_image_tower(folder: Path) -> ImageTower:
    """Load a frozen tower from a local folder.

    Raises:
        WeightsFileError: files missing, of another layout, or tensors that do not fit.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        tower = ImageTower(TowerSpec.model_validate(config.get("vision_config", config)))
    except OSError:
        raise WeightsFileError(f"{path}: not found; give a folder of a CLIP vision tower") from None
    except (ValueError, ValidationError, AttributeError) as error:
        raise WeightsFileError(f"{path}: not a CLIP vision configuration ({error})") from None
    source = folder / "model.safetensors"
    state = {
        name.removeprefix(_PREFIX): value
        for name, value in read_tensors(source).items()
        if not name.startswith(_UNUSED) and name.removeprefix(_PREFIX) not in _UNUSED_OF_TOWER
    }
    refuse_misfits(source, state, tower.state_dict(), "use the config.json of these weights")
    tower.load_state_dict({name: value.float() for name, value in state.items()})
    return tower.requires_grad_(False).eval()


class _Embeddings(nn.Module):
    """Patches and the class token with learned positions."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        width, patch = spec.hidden_size, spec.patch_size
        self.class_embedding = nn.Parameter(torch.randn(width) * 0.02)
        self.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=False)
        self.position_embedding = nn.Embedding((spec.image_size // patch) ** 2 + 1, width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = rearrange(self.patch_embedding(pixels), "b c h w -> b (h w) c")
        first = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class _Encoder(nn.Module):
    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(spec) for _ in range(spec.num_hidden_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class _Layer(nn.Module):
    """Pre-normalised attention and two-layer network."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        width, wide = spec.hidden_size, spec.intermediate_size
        self.self_attn = _Attention(width, spec.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(width, spec.layer_norm_eps)
        self.layer_norm2 = nn.LayerNorm(width, spec.layer_norm_eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, wide), "fc2": nn.Linear(wide, width)})
        self.quick = spec.hidden_act == "quick_gelu"

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.self_attn(self.layer_norm1(tokens))
        inner = self.mlp["fc1"](self.layer_norm2(tokens))
        inner = inner * torch.sigmoid(1.702 * inner) if self.quick else F.gelu(inner)
        return torch.add(tokens, self.mlp["fc2"](inner))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = (
            rearrange(project(tokens), "b t (a c) -> b t a c", a=self.heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return torch.as_tensor(self.out_proj(rearrange(attend(q, k, v), "b t a c -> b t (a c)")))
