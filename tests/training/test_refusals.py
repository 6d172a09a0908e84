"""Data, settings and checkpoints that a stage refuses; nothing overwrites what is good."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import EngineError, StoreError, TrainingError, WeightsError
from engine.training.config import TrainConfig
from engine.training.loop.checkpoint import newest_checkpoint
from engine.training.loop.training import run_stage
from engine.volumes.phantoms.phantom import PhantomConfig, make_phantom
from engine.volumes.prepared.prepare import ABDOMEN_CT, prepare_case
from engine.volumes.prepared.store import read_prepared, write_prepared
from models.weights.folder import (
    DENOISER,
    read_manifest,
)

pytestmark = pytest.mark.usefixtures("process_group")
Copy = Callable[[Path], Path]
MakeConfig = Callable[..., TrainConfig]


def test_a_checkpoint_of_other_settings_or_another_architecture_is_refused(
    copied: Copy, make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = copied(tmp_path)
    settings = {"stage": "volume", "checkpoint_steps": 1}
    run_stage(make_config(folder, **settings))
    before = newest_checkpoint(make_config(folder, **settings))
    with pytest.raises(TrainingError, match="learning_rate"):
        run_stage(make_config(folder, **settings, learning_rate=1e-5))
    with pytest.raises(EngineError, match="give the same, or another"):
        run_stage(make_config(folder, **settings, denoiser={"num_res_blocks": 2}))
    assert newest_checkpoint(make_config(folder, **settings)) == before


def test_a_loss_that_is_not_finite_stops_and_leaves_weights_and_checkpoints(
    copied: Copy, make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = copied(tmp_path)
    before = (folder / "weights" / DENOISER).read_bytes()
    config = make_config(
        folder,
        stage="slice",
        learning_rate=1e30,
        grad_clip=1e30,
        warmup=0,
        num_iterations=9,
        checkpoint_steps=1,
    )
    with pytest.raises(TrainingError, match="lower learning_rate"):
        run_stage(config)
    assert (folder / "weights" / DENOISER).read_bytes() == before
    found = newest_checkpoint(config)
    assert found is not None
    assert all(torch.isfinite(v).all() for k, v in found.tensors().items() if k.startswith("net/"))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"stage": "slice"}, WeightsError, "earlier stage"),
        ({"stage": "autoencoder", "preset": "nope"}, TrainingError, "choose one of"),
        ({"stage": "autoencoder", "preset": "gem3d_256"}, TrainingError, "256 px"),
        ({"stage": "autoencoder", "denoiser": {"nope": 1}}, TrainingError, "denoiser|nope"),
        (
            {"stage": "autoencoder", "holdout": ("phantom0000", "phantom0001")},
            TrainingError,
            "no prepared case",
        ),
        ({"stage": "autoencoder", "data": "nowhere"}, TrainingError, "no prepared case"),
        ({"stage": "autoencoder", "trackers": ("wandb",)}, TrainingError, "pip install wandb"),
        ({"stage": "autoencoder", "perceptual": "none.pth"}, WeightsError, "none.pth"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    make_config: MakeConfig,
    tmp_path: Path,
    changes: dict[str, object],
    kind: type[EngineError],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        run_stage(make_config(tmp_path, **changes))


def test_one_case_is_enough(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path, stage="autoencoder", holdout=("phantom0001",))
    assert run_stage(config)["num_cases"] == 1


def test_a_case_without_an_image_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    phantom = make_phantom(1, 0, PhantomConfig(num_slices=8))
    settings = ABDOMEN_CT.model_copy(update={"contour": "none"})
    case = prepare_case(None, phantom.labels, settings, "mask-only")
    write_prepared(tmp_path / "p" / "mask-only.zarr", case)
    assert np.any(case.mask)
    with pytest.raises(TrainingError, match="mask-only: has no image"):
        run_stage(make_config(tmp_path, data=tmp_path / "p", stage="autoencoder"))


def test_short_cases_are_counted_and_absent_classes_named(
    copied: Copy, make_config: MakeConfig, data: Path, tmp_path: Path
) -> None:
    folder, prepared = copied(tmp_path), tmp_path / "p"
    case = read_prepared(data / "phantom0000.zarr")
    mask = np.where(case.mask == 2, 0, case.mask).astype(np.uint8)
    changed = case.__class__(**{**vars(case), "mask": mask})
    assert case.image is not None
    short = case.__class__(
        **{**vars(case), "case_id": "short", "mask": mask[:9], "image": case.image[:9]}
    )
    for one in (changed, short):
        write_prepared(prepared / f"{one.case_id}.zarr", one)
    run_stage(make_config(folder, data=prepared, stage="volume"))
    entry = read_manifest(folder / "weights").stages["volume"]
    assert entry["missing_classes"] == ["kidney"]
    assert (entry["num_cases"], entry["num_skipped"]) == (1, 1)
    assert "saw no mask with kidney" in (folder / "weights" / "README.md").read_text()
    only_short = make_config(folder, data=prepared, holdout=(case.case_id,), stage="volume")
    with pytest.raises(TrainingError, match="none of 1 cases has the 16 slices"):
        run_stage(only_short)


def test_empty_masks_are_refused(
    copied: Copy, make_config: MakeConfig, data: Path, tmp_path: Path
) -> None:
    case = read_prepared(data / "phantom0000.zarr")
    empty = case.__class__(**{**vars(case), "mask": np.zeros_like(case.mask)})
    write_prepared(tmp_path / "p" / f"{case.case_id}.zarr", empty)
    with pytest.raises(TrainingError, match="all 1 masks are empty"):
        run_stage(make_config(copied(tmp_path), data=tmp_path / "p", stage="slice"))


def test_a_full_disk_ends_with_words_and_leaves_the_weights(
    copied: Copy, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(tmp_path)
    before = (folder / "weights" / DENOISER).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.training.weights.export.save_weights", full)
    config = make_config(folder, stage="slice", checkpoint_steps=1)
    with pytest.raises(TrainingError, match="free some space"):
        run_stage(config)
    assert (folder / "weights" / DENOISER).read_bytes() == before
    found = newest_checkpoint(config)
    assert found is not None
    assert found.step == 2
    monkeypatch.undo()
    assert run_stage(config)["iterations"] == 2


def test_a_damaged_case_is_named(make_config: MakeConfig, data: Path, tmp_path: Path) -> None:
    case = read_prepared(data / "phantom0000.zarr")
    write_prepared(tmp_path / "p" / "phantom0000.zarr", case)
    for shard in (tmp_path / "p" / "phantom0000.zarr" / "image").rglob("0"):
        if shard.is_file():
            shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(StoreError, match="phantom0000"):
        run_stage(make_config(tmp_path, data=tmp_path / "p", stage="autoencoder"))


def test_settings_that_do_not_go_together_are_refused() -> None:
    for changes, message in (
        ({"stage": "distill"}, "start_from"),
        ({"distill_start": 12, "distill_steps": 8}, "distill_start 12"),
        ({"num_iterations": 0}, "num_iterations 0"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainConfig.model_validate(changes)
