"""Autoencoders of other layouts: equal output against diffusers, and what is refused by name."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.autoencoder import Autoencoder
from models.presets import PRESETS, AutoencoderSpec
from models.weights.folder import WeightsFileError
from models.weights.interop import (
    load_diffusers_autoencoder,
    load_ldm_autoencoder,
    save_diffusers_autoencoder,
)

WIDTHS, LATENT, GROUPS = (16, 32, 32), 4, 8


def theirs(**changes: object) -> AutoencoderKL:
    torch.manual_seed(0)
    settings = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": WIDTHS,
        "layers_per_block": 2,
        "latent_channels": LATENT,
        "norm_num_groups": GROUPS,
    }
    model = AutoencoderKL(**(settings | changes))
    for parameter in model.parameters():  # no norm at 1 and no bias at 0, where a swap would hide
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.eval()


def assert_equal_output(model: Autoencoder, expected: AutoencoderKL) -> None:
    grey = torch.rand(2, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        posterior = expected.encode(grey.expand(-1, 3, -1, -1)).latent_dist
        found = model.encode(grey)
        torch.testing.assert_close(found.mean, posterior.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.log_variance, posterior.logvar, atol=1e-5, rtol=1e-4)
        decoded = expected.decode(posterior.mean).sample[:, :1]
        torch.testing.assert_close(model.decode(found.mean), decoded, atol=1e-5, rtol=1e-4)


def test_a_diffusers_folder_gives_diffusers_output(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path)
    model = load_diffusers_autoencoder(tmp_path)
    assert model.scale.tolist() == [1.0] * LATENT, "a foreign scale is measured, not taken"
    assert_equal_output(model, AutoencoderKL.from_pretrained(tmp_path).eval())


def test_the_attention_names_of_old_folders_are_read(tmp_path: Path) -> None:
    expected = theirs()
    expected.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in load_file(path).items():
        renamed = name
        for new_name, old_name in old.items():
            renamed = renamed.replace(f"attentions.0.{new_name}.", f"attentions.0.{old_name}.")
        state[renamed] = value
    assert any(".query." in name for name in state)
    save_file(state, path)
    assert_equal_output(load_diffusers_autoencoder(tmp_path), expected)


def test_an_export_is_reloaded_by_diffusers_and_by_us_with_its_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Autoencoder(PRESETS["demo"].autoencoder).eval()
    model.set_statistics(torch.linspace(-1, 1, 8), torch.linspace(0.5, 2, 8))
    save_diffusers_autoencoder(model, tmp_path / "vae")
    grey = torch.rand(1, 1, 32, 32) * 2 - 1
    again = load_diffusers_autoencoder(tmp_path / "vae")
    diffusers = AutoencoderKL.from_pretrained(tmp_path / "vae").eval()
    with torch.no_grad():
        expected = model.net.encode(grey).latent_dist.mean
        assert torch.equal(diffusers.encode(grey).latent_dist.mean, expected)
        assert torch.equal(diffusers.decode(expected).sample, model.net.decode(expected).sample)
        torch.testing.assert_close(again.encode(grey).mean, model.encode(grey).mean)
    mean, std = diffusers.config.latents_mean, diffusers.config.latents_std
    torch.testing.assert_close(torch.tensor(mean), model.offset)
    torch.testing.assert_close(torch.tensor(std), 1.0 / model.scale)
    with pytest.raises(WeightsFileError, match="exists"):
        save_diffusers_autoencoder(model, tmp_path / "vae")


def ldm_state(mid_attention: bool = True) -> dict[str, Tensor]:
    """Random tensors with the published names of an LDM autoencoder, written out by hand."""
    generator, shapes = torch.Generator().manual_seed(0), dict[str, tuple[int, ...]]()

    def conv(name: str, c_in: int, c_out: int, kernel: int = 3) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (c_out, c_in, kernel, kernel), (c_out,)

    def norm(name: str, channels: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (channels,), (channels,)

    def block(name: str, c_in: int, c_out: int) -> None:
        norm(f"{name}.norm1", c_in)
        conv(f"{name}.conv1", c_in, c_out)
        norm(f"{name}.norm2", c_out)
        conv(f"{name}.conv2", c_out, c_out)
        if c_in != c_out:
            conv(f"{name}.nin_shortcut", c_in, c_out, 1)

    def middle(side: str) -> None:
        for i in (1, 2):
            block(f"{side}.mid.block_{i}", WIDTHS[-1], WIDTHS[-1])
        if mid_attention:
            norm(f"{side}.mid.attn_1.norm", WIDTHS[-1])
            for part in ("q", "k", "v", "proj_out"):
                conv(f"{side}.mid.attn_1.{part}", WIDTHS[-1], WIDTHS[-1], 1)

    conv("encoder.conv_in", 3, WIDTHS[0])
    current = WIDTHS[0]
    for level, width in enumerate(WIDTHS):
        for i in range(2):
            block(f"encoder.down.{level}.block.{i}", current, width)
            current = width
        if level < len(WIDTHS) - 1:
            conv(f"encoder.down.{level}.downsample.conv", width, width)
    middle("encoder")
    norm("encoder.norm_out", WIDTHS[-1])
    conv("encoder.conv_out", WIDTHS[-1], 2 * LATENT)
    conv("quant_conv", 2 * LATENT, 2 * LATENT, 1)
    conv("post_quant_conv", LATENT, LATENT, 1)
    conv("decoder.conv_in", LATENT, WIDTHS[-1])
    middle("decoder")
    for level in reversed(range(len(WIDTHS))):
        for i in range(3):
            block(f"decoder.up.{level}.block.{i}", current, WIDTHS[level])
            current = WIDTHS[level]
        if level > 0:
            conv(f"decoder.up.{level}.upsample.conv", current, current)
    norm("decoder.norm_out", WIDTHS[0])
    conv("decoder.conv_out", WIDTHS[0], 3)
    return {name: torch.randn(s, generator=generator) * 0.1 for name, s in shapes.items()}


@pytest.mark.parametrize("mid_attention", [True, False])
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_an_ldm_checkpoint_gives_the_output_of_diffusers_conversion(
    tmp_path: Path, prefix: str, mid_attention: bool
) -> None:
    state = ldm_state(mid_attention)
    expected = theirs(mid_block_add_attention=mid_attention)
    config = {"down_block_types": WIDTHS, "up_block_types": WIDTHS}
    expected.load_state_dict(convert_ldm_vae_checkpoint(dict(state), config))
    stored = {prefix + name: value for name, value in state.items()}
    if prefix:
        stored["model.diffusion_model.out.0.weight"] = torch.zeros(1)
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": stored | {f"{prefix}loss.logvar": torch.zeros(())}}, path)
    model = load_ldm_autoencoder(path, norm_groups=GROUPS)
    assert model.spec == AutoencoderSpec(
        image_channels=3,
        latent_channels=LATENT,
        block_channels=WIDTHS,
        num_layers=2,
        mid_attention=mid_attention,
        norm_groups=GROUPS,
    )
    assert_equal_output(model, expected)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise AssertionError('the pickle was run')",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decoder.mid.block_2.conv1.bias"), "1 missing: decoder.mid_block.resnets"),
        (lambda s: s.update({"encoder.down.0.attn.0.q.weight": torch.zeros(1)}), "1 unknown"),
        (lambda s: s.update({"quant_conv.bias": torch.zeros(3)}), "1 of another shape: quant_conv"),
        (lambda s: s.pop("post_quant_conv.weight"), "no KL autoencoder"),
        (lambda s: s.pop("encoder.down.1.block.0.conv1.weight"), "3 levels"),
    ],
)
def test_ldm_tensors_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    state = ldm_state()
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsFileError, match=message):
        load_ldm_autoencoder(tmp_path / "model.safetensors", norm_groups=GROUPS)


def test_pickles_of_more_than_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": ldm_state(), "callbacks": Evil()}, tmp_path / "evil.ckpt")
    (tmp_path / "raw.ckpt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "torn.ckpt").write_bytes(b"PK\x03\x04 torn")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    torch.save({"step": 3}, tmp_path / "none.ckpt")
    for name, message in [
        ("evil", "more than tensors"),
        ("raw", "more than tensors|not a checkpoint"),
        ("torn", "not a checkpoint|more than tensors"),
        ("empty", "not a checkpoint|more than tensors"),
        ("none", "no named tensors"),
        ("absent", "not found"),
    ]:
        with pytest.raises(WeightsFileError, match=message):
            load_ldm_autoencoder(tmp_path / f"{name}.ckpt")


@pytest.mark.parametrize(
    "change",
    [
        {"act_fn": "relu"},
        {"use_quant_conv": False},
        {"in_channels": 4, "out_channels": 4},
        {"down_block_types": ["AttnDownEncoderBlock2D"]},
        {"block_out_channels": []},
        {"latents_mean": [0.0], "latents_std": [1.0]},
        {"latents_mean": [0.0] * LATENT, "latents_std": [0.0] * LATENT},
    ],
)
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    theirs().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsFileError, match=r"config\.json"):
        load_diffusers_autoencoder(tmp_path)
    path.write_text("{")
    with pytest.raises(WeightsFileError, match="not an AutoencoderKL"):
        load_diffusers_autoencoder(tmp_path)
    path.unlink()
    with pytest.raises(WeightsFileError, match="not found"):
        load_diffusers_autoencoder(tmp_path)
