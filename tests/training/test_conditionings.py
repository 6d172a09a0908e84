"""Every conditioning and mask encoding of Table 3 trains by name; shipped settings are valid."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import load_config
from engine.errors import TrainingError, WeightsError
from engine.sampling.config import SamplingConfig
from engine.sampling.sampler import Sampler, SampleRequest
from engine.training.config import TrainConfig
from engine.training.loop.training import run_stage
from engine.training.stages.survey import resolve_preset
from engine.volumes.prepared.store import read_prepared
from models.image_encoder import ImageTower, load_image_tower
from models.presets import TowerSpec
from models.weights.folder import check_files, load_denoiser, load_tower, read_manifest

Copy = Callable[[Path], Path]
MakeConfig = Callable[..., TrainConfig]
CONFIGS = sorted((Path(__file__).parents[2] / "jobs" / "configs").glob("train_*.yaml"))


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random vision tower in CLIP's layout."""
    folder = tmp_path_factory.mktemp("tower")
    spec = TowerSpec(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, image_size=32, patch_size=16,
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(spec.model_dump()))
    state = {f"vision_model.{k}": v.contiguous() for k, v in ImageTower(spec).state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("conditioning", ["concatenate", "controlnet", "image_attention", "clip"])
@pytest.mark.parametrize("mask_encoding", ["grey_vae", "one_hot"])
def test_each_conditioning_trains_with_each_mask_encoding(
    copied: Callable[[Path], Path],
    make_config: MakeConfig,
    tmp_path: Path,
    tower: Path,
    conditioning: str,
    mask_encoding: str,
) -> None:
    folder = copied(tmp_path)
    (folder / "weights" / "denoiser.safetensors").unlink()
    manifest = read_manifest(folder / "weights")
    only = manifest.model_copy(update={"stages": {"autoencoder": manifest.stages["autoencoder"]}})
    (folder / "weights" / "config.json").write_text(only.model_dump_json())
    fields: dict[str, object] = {"mask_encoding": mask_encoding, "class_intensity_input": False}
    if conditioning == "clip":
        fields |= {"conditioning": "image_attention", "image_token_width": 32}
    else:
        fields["conditioning"] = conditioning
    config = make_config(
        folder,
        stage="slice",
        denoiser=fields,
        image_encoder=tower,
        condition_dropout=0.5,
        num_iterations=1,
        batch_size=2,
    )
    assert run_stage(config)["iterations"] == 1
    found = read_manifest(folder / "weights")
    assert found.preset == resolve_preset(config)
    assert found.condition_dropout == 0.5, "guidance asks for it"
    net = load_denoiser(folder / "weights", found)
    assert all(torch.isfinite(p).all() for p in net.parameters())
    if conditioning == "clip":
        with pytest.raises(TrainingError, match="give image_encoder"):
            run_stage(config.model_copy(update={"image_encoder": None}))


@pytest.mark.usefixtures("process_group")
def test_the_tower_goes_from_training_to_sampling(
    copied: Copy, make_config: MakeConfig, tmp_path: Path, tower: Path
) -> None:
    folder = copied(tmp_path)
    weights = folder / "weights"
    manifest = read_manifest(weights)
    only = manifest.model_copy(update={"stages": {"autoencoder": manifest.stages["autoencoder"]}})
    (weights / "config.json").write_text(only.model_dump_json())
    fields = {"conditioning": "image_attention", "image_token_width": 32}
    settings = {"denoiser": fields, "image_encoder": tower, "condition_dropout": 0.5}
    settings |= {"num_iterations": 1, "ema_half_life": 1, "sample_steps": 1}
    run_stage(make_config(folder, stage="slice", **settings))
    run_stage(make_config(folder, stage="volume", **settings))
    found = read_manifest(weights)
    check_files(weights, found)
    kept = load_tower(weights, found)
    assert kept is not None
    for name, value in load_image_tower(tower).state_dict().items():
        assert torch.equal(kept.state_dict()[name], value)
    case = read_prepared(make_config(folder).data / "phantom0000.zarr")
    request = SampleRequest.own(case, seed=0)
    for changes in ({}, {"guidance_scale": 2.0, "informed_follows": "chain"}):
        config = SamplingConfig.model_validate({"num_inference_steps": 1, **changes})
        image = Sampler.load(weights, config).sample(request).image
        assert image.shape == case.size_zyx
    state = load_file(tower / "model.safetensors")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text((tower / "config.json").read_text())
    save_file({name: value + 1.0 for name, value in state.items()}, other / "model.safetensors")
    with pytest.raises(WeightsError, match="not the vision tower"):
        run_stage(make_config(folder, stage="volume", **(settings | {"image_encoder": other})))
    wide = settings | {"denoiser": fields | {"image_token_width": 64}}
    (weights / "config.json").write_text(only.model_dump_json())
    with pytest.raises(WeightsError, match="tokens of width 32"):
        run_stage(make_config(folder, stage="slice", **wide))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_settings_are_valid(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert path.stem.endswith(config.stage)
    assert resolve_preset(config).name == config.preset
