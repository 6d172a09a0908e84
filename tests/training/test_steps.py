"""All three stages in one process, with DeepSpeed: what they write, freeze, refuse and resume."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import engine.training.steps as steps_module
from engine.errors import EngineError, TrainingError, WeightsError
from engine.training.config import TrainConfig
from engine.training.stages import build_stage
from engine.training.steps import run_stage
from engine.volumes.cohort import phantom_id
from engine.volumes.phantom import PhantomConfig, make_phantom
from engine.volumes.prepare import ABDOMEN_CT, prepare_case
from engine.volumes.store import write_prepared
from models.weights import AUTOENCODER, DENOISER, load_denoiser, read_manifest


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("group") / "store"
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            patch.setenv(key, value)
        patch.setenv("DS_ACCELERATOR", "cpu")
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=0, world_size=1
        )
        yield
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    for index in range(2):
        phantom = make_phantom(1, index, PhantomConfig(num_slices=17))
        case = prepare_case(phantom.image, phantom.labels, ABDOMEN_CT, phantom_id(index))
        write_prepared(folder / f"{case.case_id}.zarr", case)
    return folder


def config(data: Path, folder: Path, **changes: object) -> TrainConfig:
    fields: dict[str, object] = {
        "data": data,
        "weights": folder / "weights",
        "work": folder / "work",
        "num_iterations": 2,
        "batch_size": 1,
        "crop_px": 32,
        "threads": 1,
        "warmup": 1,
    }
    return TrainConfig.model_validate({**fields, **changes})


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run_stage(config(data, folder, stage="autoencoder"))
    run_stage(config(data, folder, stage="slice"))
    return folder


def copied(trained: Path, target: Path) -> Path:
    (target / "weights").mkdir(parents=True)
    for path in (trained / "weights").iterdir():
        (target / "weights" / path.name).write_bytes(path.read_bytes())
    return target


def test_stages_fill_the_weights_folder_and_tell_what_they_did(trained: Path) -> None:
    manifest = read_manifest(trained / "weights")
    assert manifest.class_names == ("liver", "kidney", "spleen", "pancreas", "body")
    assert manifest.spacing_mm_yx == 3.0
    assert manifest.stages["slice"]["iterations"] == 2
    assert manifest.stages["slice"]["num_cases"] == 2
    scale = load_file(trained / "weights" / AUTOENCODER)["scale"]
    assert (scale != 1.0).all(), "the latent scale is measured"


def test_stage_2_starts_with_stage_1s_output(trained: Path, data: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    stage, _ = build_stage(config(data, folder, stage="volume"), seed=0)
    reference = load_denoiser(folder / "weights", read_manifest(folder / "weights"))
    x = torch.randn(4, reference.preset.input_channels(5), 16, 16)
    t, heights = torch.tensor([5, 5, 5, 5]), torch.rand(4, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            stage.net(x, t, heights, 4), reference(x, t, heights, None), atol=1e-4, rtol=1e-4
        )


def test_stage_2_changes_the_volumetric_layers_only(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path)
    before = load_file(folder / "weights" / DENOISER)
    run_stage(config(data, folder, stage="volume", num_iterations=3, ema_half_life=1))
    after = load_file(folder / "weights" / DENOISER)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".slices." in name for name in changed)


def test_a_broken_off_stage_ends_with_the_same_weights(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = (copied(trained, tmp_path / name) for name in ("whole", "broken"))
    settings = {"stage": "volume", "num_iterations": 4, "checkpoint_minutes": 1e-9}
    run_stage(config(data, whole, **settings))

    check = steps_module._finite

    def dies_at_step_3(loss: float, step: int, of: TrainConfig) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return check(loss, step, of)

    monkeypatch.setattr(steps_module, "_finite", dies_at_step_3)
    with pytest.raises(KeyboardInterrupt):
        run_stage(config(data, broken, **settings))
    monkeypatch.setattr(steps_module, "_finite", check)
    run_stage(config(data, broken, **settings))
    expected, found = (load_file(f / "weights" / DENOISER) for f in (whole, broken))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-3, rtol=1e-3)


def test_a_checkpoint_of_other_settings_is_refused(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path)
    run_stage(config(data, folder, stage="volume", checkpoint_minutes=1e-9))
    with pytest.raises(TrainingError, match="learning_rate"):
        run_stage(config(data, folder, stage="volume", learning_rate=1e-5))


def test_a_loss_that_is_not_finite_stops_and_leaves_the_weights(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path)
    before = (folder / "weights" / DENOISER).read_bytes()
    with pytest.raises(TrainingError, match="lower learning_rate"):
        run_stage(config(data, folder, stage="slice", learning_rate=1e30, grad_clip=1e30, warmup=0))
    assert (folder / "weights" / DENOISER).read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"stage": "slice"}, WeightsError, "earlier stage"),
        ({"stage": "autoencoder", "preset": "nope"}, TrainingError, "choose one of"),
        ({"stage": "autoencoder", "preset": "gem3d_256"}, TrainingError, "256 px"),
        (
            {"stage": "autoencoder", "holdout": ("phantom0000", "phantom0001")},
            TrainingError,
            "no prepared case",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(
    data: Path, tmp_path: Path, changes: dict[str, object], kind: type[EngineError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run_stage(config(data, tmp_path, **changes))


def test_a_case_without_an_image_is_named(data: Path, tmp_path: Path) -> None:
    phantom = make_phantom(1, 0, PhantomConfig(num_slices=8))
    settings = ABDOMEN_CT.model_copy(update={"contour": "none"})
    case = prepare_case(None, phantom.labels, settings, "mask-only")
    write_prepared(tmp_path / "p" / "mask-only.zarr", case)
    assert np.any(case.mask)
    with pytest.raises(TrainingError, match="mask-only: has no image"):
        run_stage(config(tmp_path / "p", tmp_path, stage="autoencoder"))
