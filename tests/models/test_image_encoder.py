"""The CLIP vision tower: its layout, its arithmetic, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.image_encoder import CLIP_MEAN, CLIP_STD, ImageTower, load_image_tower
from models.presets import TowerSpec
from models.weights.folder import WeightsFileError

SPEC = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
    "hidden_act": "quick_gelu",
}


def layout(prefix: str = "vision_model.") -> dict[str, Tensor]:
    """Random tensors with the published names and shapes, written out by hand."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (32,),
        "embeddings.patch_embedding.weight": (32, 3, 7, 7),
        "embeddings.position_embedding.weight": (17, 32),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.weight": (32,), f"{norm}.bias": (32,)}
    for i in range(2):
        layer = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}.self_attn.{name}.weight"] = (32, 32)
            shapes[f"{layer}.self_attn.{name}.bias"] = (32,)
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}.{norm}.weight": (32,), f"{layer}.{norm}.bias": (32,)}
        shapes |= {f"{layer}.mlp.fc1.weight": (48, 32), f"{layer}.mlp.fc1.bias": (48,)}
        shapes |= {f"{layer}.mlp.fc2.weight": (32, 48), f"{layer}.mlp.fc2.bias": (32,)}
    return {
        prefix + name: torch.randn(shape, generator=generator) * 0.2
        for name, shape in shapes.items()
    }


def write(folder: Path, state: dict[str, Tensor], config: object = SPEC) -> Path:
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def oracle(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The same tower out of torch's own transformer layers."""
    names = {name.removeprefix("vision_model."): value for name, value in state.items()}
    patches = nn.functional.conv2d(pixels, names["embeddings.patch_embedding.weight"], stride=7)
    first = names["embeddings.class_embedding"].expand(len(pixels), 1, 32)
    tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
    tokens = tokens + names["embeddings.position_embedding.weight"]
    norm = names["pre_layrnorm.weight"], names["pre_layrnorm.bias"]
    tokens = nn.functional.layer_norm(tokens, (32,), *norm)
    for i in range(2):
        part = {n[17:]: v for n, v in names.items() if n.startswith(f"encoder.layers.{i}.")}
        layer = nn.TransformerEncoderLayer(
            32,
            4,
            48,
            dropout=0.0,
            activation=lambda x: x * torch.sigmoid(1.702 * x),
            batch_first=True,
            norm_first=True,
        )
        qkv = ("q_proj", "k_proj", "v_proj")
        own = {
            "self_attn.out_proj": "self_attn.out_proj",
            "linear1": "mlp.fc1",
            "linear2": "mlp.fc2",
            "norm1": "layer_norm1",
            "norm2": "layer_norm2",
        }
        loaded = {f"{a}.{k}": part[f"{b}.{k}"] for a, b in own.items() for k in ("weight", "bias")}
        for k in ("weight", "bias"):
            loaded[f"self_attn.in_proj_{k}"] = torch.cat([part[f"self_attn.{p}.{k}"] for p in qkv])
        layer.load_state_dict(loaded)
        tokens = layer(tokens)
    return tokens


@torch.no_grad()
def test_the_tower_equals_torchs_transformer_layers(tmp_path: Path) -> None:
    tower = load_image_tower(write(tmp_path, layout()))
    grey = torch.rand(2, 1, 28, 28) * 2 - 1
    rgb = ((grey + 1) / 2).expand(-1, 3, -1, -1)
    pixels = (rgb - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
    found = tower(grey)
    assert found.shape == (2, 17, tower.token_width)
    torch.testing.assert_close(found, oracle(layout(), pixels), atol=1e-4, rtol=1e-4)


def test_the_tower_is_frozen_and_takes_any_size(tmp_path: Path) -> None:
    tower = load_image_tower(write(tmp_path, layout()))
    assert not any(p.requires_grad for p in tower.parameters())
    tokens = tower(torch.rand(1, 1, 512, 512))
    assert tokens.shape == (1, 17, 32)
    assert torch.isfinite(tokens).all()


def test_a_whole_clip_folder_serves_too(tmp_path: Path) -> None:
    state = layout() | {
        "text_model.final_layer_norm.weight": torch.zeros(4),
        "visual_projection.weight": torch.zeros(4, 32),
        "logit_scale": torch.zeros(()),
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    folder = write(tmp_path, state, {"model_type": "clip", "vision_config": SPEC})
    assert isinstance(load_image_tower(folder), ImageTower)


def test_equal_to_transformers_where_it_is_installed(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SPEC)).eval()
    theirs.save_pretrained(tmp_path, safe_serialization=True)
    tower = load_image_tower(tmp_path)
    grey = torch.rand(2, 1, 28, 28) * 2 - 1
    with torch.no_grad():
        expected = theirs(pixel_values=tower._prepare(grey)).last_hidden_state
    torch.testing.assert_close(tower(grey), expected, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsFileError, match=r"config\.json: not found"):
        load_image_tower(tmp_path)
    state = layout()
    del state["vision_model.encoder.layers.1.mlp.fc2.bias"]
    with pytest.raises(WeightsFileError, match=r"1 missing: encoder\.layers\.1\.mlp\.fc2\.bias"):
        load_image_tower(write(tmp_path, state))
    with pytest.raises(WeightsFileError, match="of another shape"):
        load_image_tower(write(tmp_path, layout(), SPEC | {"intermediate_size": 64}))
    with pytest.raises(WeightsFileError, match="not a CLIP vision configuration"):
        load_image_tower(write(tmp_path, layout(), SPEC | {"hidden_act": "relu6"}))
    with pytest.raises(WeightsFileError, match="not a CLIP vision configuration"):
        load_image_tower(write(tmp_path, layout(), [1]))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").write_text(json.dumps(SPEC))
    with pytest.raises(WeightsFileError, match=r"model\.safetensors: not found"):
        load_image_tower(tmp_path)


def test_the_default_specification_is_vit_b_32() -> None:
    with torch.device("meta"):
        tower = ImageTower(TowerSpec())
    assert round(sum(p.numel() for p in tower.parameters()) / 1e6) == 87
