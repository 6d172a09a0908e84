"""The stages in one process, with DeepSpeed: what they write, freeze and resume."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.errors import WeightsError
from engine.sampling.config import SamplingConfig
from engine.sampling.sampler import Sampler
from engine.training.config import TrainConfig
from engine.training.loop.checkpoint import newest_checkpoint
from engine.training.loop.training import Training, run_stage
from engine.training.optimisation.batching import Batching
from engine.training.optimisation.sharding import start_deepspeed
from engine.training.stages.registry import build_stage
from engine.training.stages.survey import survey
from engine.training.weights.export import losses_file
from models.denoiser.unet import Denoiser
from models.weights.folder import (
    AUTOENCODER,
    DENOISER,
    POSITION,
    load_denoiser,
    load_position,
    read_manifest,
)
from tests.models.made import given

pytestmark = pytest.mark.usefixtures("process_group")
Copy = Callable[[Path], Path]
MakeConfig = Callable[..., TrainConfig]


class Interrupted(BaseException):
    """Ends a training from outside."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    end_step = Training._end_step

    def stop(training: Training, loss: Tensor, norm: Tensor) -> None:
        if training.pace.step + 1 == step:
            raise Interrupted
        end_step(training, loss, norm)

    monkeypatch.setattr(Training, "_end_step", stop)


def assert_same_weights(a: Path, b: Path, name: str, tolerance: float = 1e-6) -> None:
    expected, found = load_file(a / "weights" / name), load_file(b / "weights" / name)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=tolerance, rtol=tolerance)


def test_stages_fill_the_weights_folder_and_tell_what_they_did(trained: Path) -> None:
    manifest = read_manifest(trained / "weights")
    assert manifest.class_names == ("liver", "kidney", "spleen", "pancreas", "body")
    assert manifest.spacing_mm_yx == 3.0
    assert manifest.stages["slice"]["iterations"] == 2
    assert manifest.stages["slice"]["num_cases"] == 2
    scale = load_file(trained / "weights" / AUTOENCODER)["scale"]
    assert (scale != 1.0).all(), "the latent scale is measured"
    settings = (trained / "weights" / "train_slice.yaml").read_text()
    assert "stage: slice" in settings
    assert "num_iterations: 2" in settings


def test_stage_2_starts_with_stage_1s_output(
    copied: Copy, make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = copied(tmp_path)
    stage = build_stage(survey(make_config(folder, stage="volume")))
    reference = load_denoiser(folder / "weights", read_manifest(folder / "weights"))
    told = given(reference.preset, 4, num_classes=5)
    with torch.no_grad():
        window, flat = told.to(stage.net, 4), told.to(reference)
        torch.testing.assert_close(window, flat, atol=1e-4, rtol=1e-4)


def test_frozen_layers_get_no_gradient_and_no_place_in_the_optimiser(
    copied: Copy, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(copied(tmp_path), stage="volume")
    stage = build_stage(survey(config))
    assert isinstance(stage.net, Denoiser)
    engine = start_deepspeed(stage, config, config, Batching(1, 1, 1))
    held = {id(p) for group in engine.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in stage.net.volumetric_parameters()}
    stage(stage.draw(0, range(1))).backward()
    assert all(p.grad is None for p in stage.net.plane_parameters())
    assert all(p.grad is not None for p in stage.net.volumetric_parameters())


def test_stage_2_changes_the_volumetric_layers_only(
    copied: Copy, make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = copied(tmp_path)
    before = load_file(folder / "weights" / DENOISER)
    run_stage(make_config(folder, stage="volume", num_iterations=3, ema_half_life=1))
    after = load_file(folder / "weights" / DENOISER)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".slices." in name for name in changed)


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_a_broken_off_stage_ends_with_the_same_weights(
    copied: Copy,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    zero_stage: int,
) -> None:
    whole, broken = copied(tmp_path / "whole"), copied(tmp_path / "broken")
    settings = {"stage": "slice", "num_iterations": 5, "checkpoint_steps": 2}
    settings |= {"zero_stage": zero_stage, "condition_dropout": 0.3, "loss_weighting": "min_snr"}
    run_stage(make_config(whole, **settings))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Interrupted):
            run_stage(make_config(broken, **settings))
    found = newest_checkpoint(make_config(broken, **settings))
    assert found is not None
    assert found.step == 2
    measured = run_stage(make_config(broken, **settings))
    assert measured["iterations"] == 5
    assert_same_weights(whole, broken, DENOISER, 1e-4)
    curves = [np.loadtxt(losses_file(make_config(f, **settings))) for f in (whole, broken)]
    assert len(curves[0]) == 5
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)


def test_gradients_may_be_accumulated_and_activations_forgotten(
    copied: Copy, make_config: MakeConfig, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"stage": "slice", "global_batch_size": 4, "batch_size": 4}
    first = copied(tmp_path / "0")
    run_stage(make_config(first, **settings))
    ways: list[dict[str, Any]] = [{"batch_size": 1}, {"batch_size": 3}]
    for index, changes in enumerate([*ways, {"activation_checkpointing": True}], start=1):
        other = copied(tmp_path / str(index))
        run_stage(make_config(other, **{**settings, **changes}))
        assert_same_weights(first, other, DENOISER, 2e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("zero_stage", [0, 1])
def test_narrow_formats_train_and_an_overflow_only_skips_a_step(
    copied: Copy, make_config: MakeConfig, tmp_path: Path, precision: str, zero_stage: int
) -> None:
    folder = copied(tmp_path)
    config = make_config(
        folder, stage="slice", precision=precision, zero_stage=zero_stage, num_iterations=3
    )
    training = Training(survey(config), 0)
    if precision == "float16":
        training.scale.scale = 2.0**60  # far too much: the first gradient is infinite
        before = {k: v.clone() for k, v in training.stage.net.state_dict().items()}
        training.config = config.model_copy(update={"num_iterations": 1})
        training.pace.num_iterations = 1
        training.run()
        after = training.stage.net.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert training.scale.scale == 2.0**59
        assert training.scale.num_skipped == 1
        training.scale.scale, training.pace.num_iterations = 2.0**10, 3
        training._set_learning_rate()
    training.run() if precision == "bfloat16" else None
    training.close()
    assert all(torch.isfinite(p).all() for p in training.stage.net.parameters())


def test_the_position_stage_makes_a_model_of_heights(
    copied: Copy, make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = copied(tmp_path)
    run_stage(make_config(folder, stage="position", batch_size=2, ema_half_life=1))
    model = load_position(folder / "weights", read_manifest(folder / "weights"))
    x, t = torch.randn(1, 8, 16, 16).expand(2, -1, -1, -1), torch.tensor([500, 500])
    with torch.no_grad():
        assert torch.isfinite(model(x, t, torch.tensor([0.2, 0.8]))).all()
    assert (folder / "weights" / POSITION).is_file()


def test_distillation_writes_a_folder_of_its_own_with_its_number_of_steps(
    copied: Copy, make_config: MakeConfig, tmp_path: Path
) -> None:
    teacher = copied(tmp_path / "teacher")
    run_stage(make_config(teacher, stage="volume"))
    before = (teacher / "weights" / DENOISER).read_bytes()
    student = tmp_path / "student"
    config = make_config(
        student,
        stage="distill",
        start_from=teacher / "weights",
        distill_start=8,
        distill_steps=4,
        num_iterations=4,
        checkpoint_steps=3,
        ema_half_life=1,
    )
    run_stage(config)
    manifest = read_manifest(student / "weights")
    assert manifest.num_inference_steps == 4
    assert manifest.solver == manifest.stages["distill"]["solver"] == "ddim"
    assert manifest.condition_dropout == 0.0, "a student always sees its conditions"
    assert "slice" in manifest.stages
    assert (teacher / "weights" / DENOISER).read_bytes() == before
    assert (student / "weights" / DENOISER).read_bytes() != before
    sampler = Sampler.load(student / "weights", SamplingConfig())
    assert (sampler.config.solver, sampler.solver.num_evaluations) == ("ddim", 4)
    found = newest_checkpoint(config)
    assert found is not None
    assert int(found.tensors()["extra/round"]) == 1


def test_the_autoencoder_takes_three_channels_features_and_an_adversary(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = {}
    shapes = [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)]
    for i, (out, into, k) in zip((0, 3, 6, 8, 10), shapes, strict=True):
        trunk[f"features.{i}.weight"] = torch.randn(out, into, k, k) * 0.05
        trunk[f"features.{i}.bias"] = torch.zeros(out)
    torch.save(trunk, tmp_path / "alexnet.pth")
    settings = {
        "stage": "autoencoder",
        "autoencoder": {"image_channels": 3},
        "perceptual": tmp_path / "alexnet.pth",
        "adversarial_weight": 0.5,
        "adversarial_start": 1,
        "crop_px": 64,
        "num_iterations": 4,
        "checkpoint_steps": 2,
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_stage(make_config(whole, **settings))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Interrupted):
            run_stage(make_config(broken, **settings))
    run_stage(make_config(broken, **settings))
    assert_same_weights(whole, broken, AUTOENCODER, 1e-4)
    assert read_manifest(whole / "weights").preset.autoencoder.image_channels == 3


def test_the_decoder_is_tuned_under_latents_that_stay(
    trained: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    shutil.copytree(trained / "weights", tmp_path / "weights")
    before = load_file(tmp_path / "weights" / AUTOENCODER)
    denoiser = (tmp_path / "weights" / DENOISER).read_bytes()
    run_stage(make_config(tmp_path, stage="decoder", num_iterations=2, squared_weight=4.0))
    after = load_file(tmp_path / "weights" / AUTOENCODER)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("decoder" in name or "post_quant" in name for name in changed)
    assert (tmp_path / "weights" / DENOISER).read_bytes() == denoiser
    assert {"autoencoder", "decoder"} <= read_manifest(tmp_path / "weights").stages.keys()
    with pytest.raises(WeightsError, match="not found"):
        run_stage(make_config(tmp_path / "empty", stage="decoder", num_iterations=1))


def test_an_autoencoder_from_elsewhere_is_measured_without_training(
    trained: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    start_from = trained / "weights"
    run_stage(make_config(tmp_path, stage="autoencoder", start_from=start_from, num_iterations=0))
    mine, theirs = (load_file(f / "weights" / AUTOENCODER) for f in (tmp_path, trained))
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], atol=1e-2, rtol=1e-2)


def test_the_best_checkpoint_can_be_exported(
    copied: Copy, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.1, 0.9, 0.8])
    monkeypatch.setattr(Training, "_probe", lambda _self: next(scores))
    config = make_config(
        copied(tmp_path), stage="slice", num_iterations=4, checkpoint_steps=1, export="best"
    )
    assert run_stage(config)["exported_step"] == 2
    kept = sorted(p.name for p in (config.work / "checkpoints" / "slice").iterdir())
    assert kept == ["step_00000002", "step_00000003", "step_00000004"]
