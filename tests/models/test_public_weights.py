"""The public GEM-3D layout: equal output to a small network of that layout, and what is refused.

The network below reads its tensors by their published names, making random ones the first time;
so it writes down the names and shapes of the layout once more, independently of the mapping.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.conditions import Conditions
from models.denoiser.unet import VOLUMETRIC_MARK, Denoiser
from models.presets import PRESETS, AutoencoderSpec, DenoiserSpec, Preset
from models.weights.folder import WeightsFileError
from models.weights.public import (
    PUBLIC_LATENT_SCALE,
    PUBLIC_SCHEDULE,
    load_public_checkpoint,
    public_names,
)

PREFIX = "model.diffusion_model."
WIDTHS, HEAD = (128, 256), 32


@dataclass
class PublicNetwork:
    """A small network of the public layout: two levels, one block each, window of `n` slices."""

    attention: tuple[bool, bool]
    n: int | None = 3
    tensors: dict[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(3))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        rates = torch.exp(-math.log(10_000) * torch.arange(64) / 64)
        angles = t[:, None].float() * rates
        e = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], -1), 512)
        e = self.linear("time_embed.2", F.silu(e), 512)
        first, second = self.attention
        x = self.slices("input_blocks.0.1", self.conv("input_blocks.0.0", x, 128))
        kept = [x]
        x = self.block("input_blocks.1", x, e, 128, first)
        kept.append(x)
        x = self.conv("input_blocks.2.0.op", x, 128, stride=2)
        x = self.slices("input_blocks.2.0.op_tem", x)
        kept.append(x)
        x = self.block("input_blocks.3", x, e, 256, second)
        kept.append(x)
        x = self.res("middle_block.0", x, e, 256)
        x = self.attend("middle_block.1", x)
        x = self.res("middle_block.2", x, e, 256)
        for i, (width, attention) in enumerate(
            [(256, second), (256, second), (128, first), (128, first)]
        ):
            x = self.block(f"output_blocks.{i}", torch.cat([x, kept.pop()], 1), e, width, attention)
            if i == 1:
                name = f"output_blocks.1.{1 + attention}.conv"
                x = self.conv(name, F.interpolate(x, scale_factor=2.0), 256)
                x = self.slices(f"{name}_tem", x)
        x = self.conv("out.2", F.silu(self.norm("out.0", x)), 4)
        return self.slices("out_tem", x)

    def tensor(self, name: str, *shape: int) -> Tensor:
        if name not in self.tensors:
            scale = 1.0 / max(math.prod(shape[1:]), 4) ** 0.5
            self.tensors[name] = torch.randn(shape, generator=self.generator) * scale
        assert self.tensors[name].shape == shape
        return self.tensors[name]

    def linear(self, name: str, x: Tensor, width: int) -> Tensor:
        weight = self.tensor(f"{name}.weight", width, x.shape[-1])
        return F.linear(x, weight, self.tensor(f"{name}.bias", width))

    def conv(self, name: str, x: Tensor, width: int, kernel: int = 3, stride: int = 1) -> Tensor:
        weight = self.tensor(f"{name}.weight", width, x.shape[1], kernel, kernel)
        bias = self.tensor(f"{name}.bias", width)
        return F.conv2d(x, weight, bias, stride=stride, padding=kernel // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.tensor(f"{name}.weight", x.shape[1])
        return F.group_norm(x, 32, weight, self.tensor(f"{name}.bias", x.shape[1]))

    def slices(self, name: str, x: Tensor) -> Tensor:
        if self.n is None:
            return x
        bn, c, h, w = x.shape
        rows = x.reshape(-1, self.n, c, h, w).permute(0, 3, 4, 2, 1).reshape(-1, c, self.n)
        weight = self.tensor(f"{name}.temporal_conv.weight", c, c, 3)
        bias = self.tensor(f"{name}.temporal_conv.bias", c)
        mixed = F.conv1d(rows, weight, bias, padding=1)
        return mixed.reshape(-1, h, w, c, self.n).permute(0, 4, 3, 1, 2).reshape(bn, c, h, w)

    def res(self, name: str, x: Tensor, e: Tensor, width: int) -> Tensor:
        y = self.conv(f"{name}.in_layers.2", F.silu(self.norm(f"{name}.in_layers.0", x)), width)
        y = self.slices(f"{name}.in_layers_tem", y)
        y = y + self.linear(f"{name}.emb_layers.1", F.silu(e), width)[:, :, None, None]
        y = self.conv(f"{name}.out_layers.3", F.silu(self.norm(f"{name}.out_layers.0", y)), width)
        y = self.slices(f"{name}.out_layers_tem", y)
        if x.shape[1] != width:
            x = self.conv(f"{name}.skip_connection", x, width, kernel=1)
        return x + y

    def block(self, name: str, x: Tensor, e: Tensor, width: int, attention: bool) -> Tensor:
        x = self.res(f"{name}.0", x, e, width)
        return self.attend(f"{name}.1", x) if attention else x

    def attend(self, name: str, x: Tensor) -> Tensor:
        bn, c, h, w = x.shape
        flat = x.reshape(bn, c, h * w)
        flat = flat + self.mix(name, "", self.norm(f"{name}.norm", flat))
        if self.n is not None:
            rows = flat.reshape(-1, self.n, c, h * w).permute(0, 3, 2, 1).reshape(-1, c, self.n)
            rows = rows + self.mix(name, "_tem", self.norm(f"{name}.norm", rows))
            flat = rows.reshape(-1, h * w, c, self.n).permute(0, 3, 2, 1)
        return flat.reshape(bn, c, h, w)

    def mix(self, name: str, kind: str, x: Tensor) -> Tensor:
        """Attention over the last axis; heads first, then query, key and value of each."""
        b, c, length = x.shape
        weight = self.tensor(f"{name}.qkv{kind}.weight", 3 * c, c, 1)
        x = F.conv1d(x, weight, self.tensor(f"{name}.qkv{kind}.bias", 3 * c))
        q, k, v = x.reshape(b, c // HEAD, 3, HEAD, length).unbind(2)
        scores = torch.einsum("bhct,bhcs->bhts", q, k) / HEAD**0.5
        mixed = torch.einsum("bhts,bhcs->bhct", scores.softmax(-1), v).reshape(b, c, length)
        weight = self.tensor(f"{name}.proj_out{kind}.weight", c, c, 1)
        return F.conv1d(mixed, weight, self.tensor(f"{name}.proj_out{kind}.bias", c))


def preset(attention: tuple[bool, bool] = (False, True), **changes: object) -> Preset:
    fields = PRESETS["gem3d_512_public"].denoiser.model_dump() | {
        "base_channels": 128,
        "multipliers": (1, 2),
        "num_res_blocks": 1,
        "attention_px": tuple(px for px, has in zip((8, 4), attention, strict=True) if has),
        **changes,
    }
    autoencoder = AutoencoderSpec(
        image_channels=3,
        latent_channels=4,
        block_channels=(32, 32, 32, 32),
        num_layers=1,
        mid_attention=True,
        norm_groups=32,
    )
    denoiser = DenoiserSpec.model_validate(fields)
    return Preset(name="tiny", size_px=64, window=3, autoencoder=autoencoder, denoiser=denoiser)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(6, 12, 8, 8, generator=generator), torch.tensor([0, 0, 0, 700, 700, 700])


def stored(network: PublicNetwork) -> dict[str, Tensor]:
    """Its tensors as a file has them; makes them by running it once."""
    network(*batch())
    return {PREFIX + name: value for name, value in network.tensors.items()}


def run(model: Denoiser, x: Tensor, t: Tensor, num_slices: int | None = None) -> Tensor:
    """The denoiser's output for channels as the public code stacks them."""
    x_t, mask, informed = x.split(4, dim=1)  # type: ignore[no-untyped-call]
    nothing = torch.zeros(len(x), dtype=torch.bool)
    told = Conditions(mask, informed, torch.zeros(len(x), 2), nothing, torch.zeros(len(x), 2, 4))
    prediction, _ = model(x_t, t, torch.ones(len(x)), told, num_slices)
    return torch.as_tensor(prediction)


def load(path: Path, state: dict[str, Tensor], of: Preset | None = None) -> Denoiser:
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return load_public_checkpoint(path, of or preset()).denoiser


@pytest.mark.parametrize("attention", [(False, True), (True, False)])
@torch.no_grad()
def test_a_volumetric_checkpoint_gives_equal_output(
    tmp_path: Path, attention: tuple[bool, bool]
) -> None:
    network = PublicNetwork(attention)
    model = load(tmp_path / "a.safetensors", stored(network), preset(attention))
    x, t = batch()
    expected = network(x, t)
    assert expected.std() > 0.1
    torch.testing.assert_close(run(model, x, t, 3), expected, atol=1e-4, rtol=1e-4)
    assert (run(model, x, t) - expected).abs().max() > 0.01, "volumetric layers matter"


@torch.no_grad()
def test_a_stage_1_checkpoint_starts_stage_2(tmp_path: Path) -> None:
    network = PublicNetwork((False, True), n=None)
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": stored(network), "global_step": 3}, path)
    model = load_public_checkpoint(path, preset())
    assert not model.is_volumetric
    x, t = batch()
    for num_slices in (None, 3):
        found = run(model.denoiser, x, t, num_slices)
        torch.testing.assert_close(found, network(x, t), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    network, averaged = PublicNetwork((False, True)), PublicNetwork((False, True))
    averaged.generator.manual_seed(9)
    state = stored(network)
    for name, value in stored(averaged).items():
        state["model_ema." + name.removeprefix("model.").replace(".", "")] = value
    state["model_ema.decay"], state["betas"] = torch.tensor(0.999), torch.zeros(1000)
    model = load(tmp_path / "a.safetensors", state)
    x, t = batch()
    torch.testing.assert_close(run(model, x, t, 3), averaged(x, t), atol=1e-4, rtol=1e-4)
    del state["model_ema.diffusion_modelout2bias"]
    with pytest.raises(WeightsFileError, match=r"averaged weights lack out\.2\.bias"):
        load(tmp_path / "b.safetensors", state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(PREFIX + "out.0.weight"), r"1 missing: out\.0\.weight"),
        (lambda s: s.pop(PREFIX + "out_tem.temporal_conv.bias"), r"1 missing: out_tem"),
        (lambda s: s.update({PREFIX + "label_emb.weight": torch.zeros(2)}), "unknown: label_emb"),
        (lambda s: s.update({PREFIX + "out.2.bias": torch.zeros(3)}), "another shape: out.2.bias"),
        (lambda s: s.clear() or s.update(a=torch.zeros(1)), "no GEM-3D denoiser"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    state = stored(PublicNetwork((False, True)))
    change(state)
    with pytest.raises(WeightsFileError, match=message):
        load(tmp_path / "a.safetensors", state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "engine"}, "need layout openai"),
        ({"conditioning": "controlnet"}, "need layout openai and conditioning concatenate"),
        ({"style_embedding": True}, "know no style_embedding"),
        ({"base_channels": 64}, "32 groups"),
    ],
)
def test_a_preset_of_another_layout_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    state = stored(PublicNetwork((False, True)))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.safetensors", state, preset(**changes))


def first_stage(spec: AutoencoderSpec) -> dict[str, Tensor]:
    """An autoencoder of one level's width in the layout of latent diffusion."""
    torch.manual_seed(0)
    renamed = {}
    for name, value in Autoencoder(spec).net.state_dict().items():
        side, level, rest = name.partition(".")[0], re.search(r"_blocks\.(\d)\.", name), name
        if level:
            place = int(level[1]) if side == "encoder" else 3 - int(level[1])
            rest = re.sub(r"(down|up)_blocks\.\d", rf"\1.{place}", rest)
        for ours, theirs in (
            (".resnets.", ".block."),
            ("samplers.0.conv", "sample.conv"),
            ("mid_block.block.0", "mid.block_1"),
            ("mid_block.block.1", "mid.block_2"),
            ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
            ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
            ("mid_block.attentions.0.to_", "mid.attn_1."),
            ("conv_norm_out", "norm_out"),
        ):
            rest = rest.replace(ours, theirs)
        is_projection = ".attn_1." in rest and value.ndim == 2
        renamed[f"first_stage_model.{rest}"] = value[..., None, None] if is_projection else value
    return renamed


@torch.no_grad()
def test_the_autoencoder_inside_comes_at_its_latent_scale(tmp_path: Path) -> None:
    own = first_stage(preset().autoencoder)
    path = tmp_path / "a.safetensors"
    load(path, stored(PublicNetwork((False, True))) | own)
    model = load_public_checkpoint(path, preset()).autoencoder
    assert model is not None
    torch.manual_seed(0)
    raw = Autoencoder(preset().autoencoder).eval()
    images = torch.rand(1, 1, 64, 64) * 2 - 1
    expected = raw.encode(images).mean * PUBLIC_LATENT_SCALE
    torch.testing.assert_close(model.encode(images).mean, expected, atol=1e-6, rtol=1e-4)
    other = preset().model_copy(update={"autoencoder": PRESETS["gem3d_512"].autoencoder})
    with pytest.raises(WeightsFileError, match="autoencoder is not that"):
        load_public_checkpoint(path, other)


def test_the_papers_preset_is_covered_name_by_name() -> None:
    with torch.device("meta"):
        model = Denoiser(PRESETS["gem3d_512_public"], num_classes=4)
    pairs = dict(public_names(model))
    assert set(pairs) == {name for name, _ in model.named_parameters()}
    assert len(set(pairs.values())) == len(pairs)
    plane = sum(p.numel() for n, p in model.named_parameters() if VOLUMETRIC_MARK not in f".{n}")
    slices = sum(p.numel() for p in model.volumetric_parameters())
    assert (round(plane / 1e6), round(slices / 1e6)) == (274, 94), "the paper's figures"
    theirs = set(pairs.values())
    for name in (  # three blocks and a downsampling a level, attention from the second level on
        "input_blocks.3.0.op_tem.temporal_conv.weight",
        "input_blocks.4.1.qkv_tem.bias",
        "input_blocks.11.1.proj_out.weight",
        "output_blocks.2.2.conv_tem.temporal_conv.weight",
        "output_blocks.11.0.skip_connection.weight",
    ):
        assert name in theirs
    assert not any(name.startswith(("input_blocks.12", "output_blocks.12")) for name in theirs)
    assert "input_blocks.1.1.qkv.weight" not in theirs


def test_the_schedule_is_one_that_the_engine_knows() -> None:
    from engine.sampling.diffusion.schedule import ScheduleConfig

    assert ScheduleConfig.model_validate(PUBLIC_SCHEDULE).prediction_type == "eps"
