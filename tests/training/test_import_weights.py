"""Foreign weights become a weights folder that the next stage and the sampler accept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import jobs.import_weights as import_job
from engine.sampling.config import SamplingConfig
from engine.sampling.sampler import Sampler, SampleRequest
from engine.training.config import TrainConfig
from engine.training.loop.training import run_stage
from engine.training.stages import autoencoder as autoencoder_stage
from engine.volumes.prepared.store import read_prepared
from models.presets import PRESETS, AutoencoderSpec, Preset
from models.weights.folder import (
    AUTOENCODER,
    DENOISER,
    check_files,
    load_autoencoder,
    read_manifest,
)
from models.weights.interop import load_diffusers_autoencoder
from models.weights.public import PUBLIC_LATENT_SCALE
from tests.models.test_interop import GROUPS, LATENT, WIDTHS, Evil, ldm_state, theirs
from tests.models.test_public_weights import PublicNetwork, first_stage, preset, stored

MakeConfig = Callable[..., TrainConfig]
SPEC = AutoencoderSpec(
    image_channels=3, latent_channels=LATENT, block_channels=WIDTHS, num_layers=2,
    mid_attention=True, norm_groups=GROUPS,
)  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Preset:
    """Presets of the layouts of the tests' random files, for slices of 128 pixels."""
    monkeypatch.setattr(autoencoder_stage, "NUM_MEASURED", 24)
    denoiser = PRESETS["demo"].denoiser.model_copy(
        update={"base_channels": 32, "multipliers": (1,), "attention_px": ()}
    )
    update = {"name": "small_kl", "autoencoder": SPEC, "denoiser": denoiser}
    monkeypatch.setitem(PRESETS, "small_kl", PRESETS["demo"].model_copy(update=update))
    public = preset(attention_px=(8,)).model_copy(update={"size_px": 128, "name": "small_public"})
    monkeypatch.setitem(PRESETS, "small_public", public)
    return public


@pytest.fixture
def run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the job and returns what it says; `code` is what it must end with."""

    def call(*args: object, code: int = 0) -> str:
        places = {"--weights": tmp_path / "weights", "--work": tmp_path / "work", "--data": data}
        given = [str(arg) for arg in args]
        for key, value in places.items():
            given += [] if key in given else [key, str(value)]
        assert import_job.main(given) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return call


def ldm_file(path: Path) -> Path:
    torch.save({"state_dict": ldm_state()}, path)
    return path


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_the_next_stage_and_the_sampler_accept_an_imported_autoencoder(
    run: Callable[..., str], make_config: MakeConfig, tmp_path: Path, layout: str
) -> None:
    source = tmp_path / "source"
    if layout == "ldm":
        source = ldm_file(tmp_path / "kl.ckpt")
    else:
        theirs().save_pretrained(source)
    said = run("--source", source, "--preset", "small_kl", "--norm-groups", GROUPS)
    assert "autoencoder of preset small_kl" in said
    weights = tmp_path / "weights"
    manifest = read_manifest(weights)
    assert manifest.class_names == ("liver", "kidney", "spleen", "pancreas", "body")
    assert (manifest.modality, manifest.spacing_mm_yx) == ("ct", 3.0)
    assert source.name in manifest.stages["autoencoder"]["about"]
    assert "Imported" in (weights / "README.md").read_text()
    net = load_autoencoder(weights, manifest)
    case = read_prepared(make_config(tmp_path).data / "phantom0000.zarr")
    assert case.image is not None
    with torch.no_grad():
        latents = net.encode(torch.from_numpy(case.image)[:, None]).mean
    assert latents.std().item() == pytest.approx(1.0, abs=0.15), "the scale is that of the data"
    if layout == "diffusers":
        original = load_diffusers_autoencoder(source).net.state_dict()
        for name, value in net.net.state_dict().items():
            torch.testing.assert_close(value, original[name], atol=1e-3, rtol=1e-3)
    run_stage(make_config(tmp_path, stage="slice", preset="small_kl", num_iterations=1))
    check_files(weights, read_manifest(weights))
    sampler = Sampler.load(weights, SamplingConfig(num_inference_steps=1))
    request = replace(SampleRequest.own(case, seed=0), mask=case.mask[:4], pinned=None)
    assert len(sampler.sample(request).image) == 4


@pytest.mark.parametrize("inside", [True, False])
def test_a_public_checkpoint_can_be_sampled(
    run: Callable[..., str], make_config: MakeConfig, tmp_path: Path, small: Preset, inside: bool
) -> None:
    state, own = stored(PublicNetwork((False, True))), first_stage(small.autoencoder)
    settings: list[object] = []
    if inside:
        state |= own
    else:
        save_file({n: v.contiguous() for n, v in own.items()}, tmp_path / "kl.safetensors")
        settings = ["--autoencoder-source", tmp_path / "kl.safetensors"]
    torch.save({"state_dict": state}, tmp_path / "gem3d.ckpt")
    source = ("--kind", "gem3d", "--source", tmp_path / "gem3d.ckpt", "--preset", "small_public")
    if not inside:
        assert "holds no autoencoder; give" in run(*source, code=2)
    run(*source, *settings)
    weights = tmp_path / "weights"
    manifest = read_manifest(weights)
    check_files(weights, manifest)
    assert manifest.schedule["prediction_type"] == "eps"
    assert set(manifest.stages) == {"autoencoder", "slice", "volume"}
    scale = load_file(weights / AUTOENCODER)["scale"].float()
    torch.testing.assert_close(scale, torch.full((4,), PUBLIC_LATENT_SCALE), atol=1e-3, rtol=1e-3)
    if inside:
        case = read_prepared(make_config(tmp_path).data / "phantom0000.zarr")
        request = replace(SampleRequest.own(case, seed=0), mask=case.mask[:4], pinned=None)
        config = SamplingConfig(num_inference_steps=1, precision="float32")
        assert len(Sampler.load(weights, config).sample(request).image) == 4


def test_a_stage_1_checkpoint_leaves_stage_2_to_be_trained(
    run: Callable[..., str], tmp_path: Path, small: Preset
) -> None:
    state = stored(PublicNetwork((False, True), n=None)) | first_stage(small.autoencoder)
    save_file({n: v.contiguous() for n, v in state.items()}, tmp_path / "one.safetensors")
    run("--kind", "gem3d", "--source", tmp_path / "one.safetensors", "--preset", "small_public")
    assert set(read_manifest(tmp_path / "weights").stages) == {"autoencoder", "slice"}


def test_weights_are_not_overwritten_unless_told(run: Callable[..., str], tmp_path: Path) -> None:
    source = ldm_file(tmp_path / "kl.ckpt")
    settings = ("--source", source, "--preset", "small_kl", "--norm-groups", GROUPS)
    run(*settings)
    (tmp_path / "weights" / DENOISER).write_bytes(b"of the old autoencoder")
    assert "holds weights already" in run(*settings, code=2)
    assert (tmp_path / "weights" / DENOISER).exists()
    run(*settings, "--overwrite")
    assert not (tmp_path / "weights" / DENOISER).exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    place = ("--weights", tmp_path / "mine")
    assert "no weights folder" in run(*settings, *place, "--overwrite", code=2)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_what_cannot_be_imported_is_named_and_writes_nothing(
    run: Callable[..., str], tmp_path: Path
) -> None:
    def refused(*args: object) -> str:
        return run(*args, "--preset", "small_kl", "--norm-groups", GROUPS, code=2)

    source = tmp_path / "kl.ckpt"
    assert "no weights to import; give --source" in refused()
    assert "not found" in refused("--source", source)
    torch.save({"state_dict": ldm_state(), "callbacks": Evil()}, source)
    assert "more than tensors" in refused("--source", source)
    state = ldm_state()
    torch.save({n: v for n, v in state.items() if n != "quant_conv.bias"}, source)
    assert "1 missing: quant_conv.bias" in refused("--source", source)
    torch.save(state | {"quant_conv.bias": torch.zeros(3)}, source)
    assert "1 of another shape: quant_conv.bias" in refused("--source", source)
    torch.save(ldm_state(mid_attention=False), source)
    assert "mid_attention is False, not True" in refused("--source", source)
    assert "belongs to kind gem3d" in refused("--source", source, "--autoencoder-source", source)
    said = run("--kind", "gem3d", "--source", source, "--preset", "demo", code=2)
    assert "layout openai" in said or "no GEM-3D denoiser" in said
    assert "no prepared case" in refused("--source", source, "--data", tmp_path / "nothing")
    assert not (tmp_path / "weights").exists()
