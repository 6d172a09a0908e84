"""The caches: whole, keyed by data and autoencoder, made once, alike with and without Ray."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import TrainingError
from engine.storage.zarr_groups.array_store import open_arrays
from engine.training.config import TrainConfig
from engine.training.examples import cache as latents_module
from engine.training.examples.augment import InPlaneMove, apply_move, plan_move
from engine.training.examples.cache import (
    CachePlan,
    fill_here,
    open_latents,
    open_pixels,
)
from engine.training.loop.ray_cache import fill_on_ray
from engine.training.stages.survey import survey
from engine.volumes.prepared.store import read_prepared, write_prepared
from models.autoencoder import Autoencoder
from models.presets import PRESETS
from models.weights.folder import AUTOENCODER, Manifest, save_weights, write_manifest

MakeConfig = Callable[..., TrainConfig]


def fresh_autoencoder(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    net = Autoencoder(PRESETS["demo"].autoencoder)
    save_weights(folder / "weights" / AUTOENCODER, net.state_dict())
    manifest = Manifest(
        preset=PRESETS["demo"],
        num_classes=5,
        class_names=("liver", "kidney", "spleen", "pancreas", "body"),
        schedule=TrainConfig().schedule.model_dump(),
        spacing_mm_yx=3.0,
        modality="ct",
    )
    write_manifest(folder / "weights", manifest)


def plan_of(config: TrainConfig) -> CachePlan:
    return survey(config).plan


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path) -> TrainConfig:
    fresh_autoencoder(tmp_path, 0)
    return make_config(tmp_path, stage="slice", num_augmented=1)


def test_a_second_run_encodes_nothing_and_all_stages_share_the_cache(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = open_latents(plan_of(config))
    assert [c.case_id for c in cases] == [
        "phantom0000", "phantom0000+1", "phantom0001", "phantom0001+1"
    ]  # fmt: skip
    assert cases[0].mean.shape == (17, 8, 16, 16)
    assert cases[0].log_variance.dtype == torch.float16
    assert cases[0].mask.shape == (17, 5 * 16, 16, 16)
    assert cases[0].classes == (1, 2, 3, 4, 5)
    assert not torch.equal(cases[0].mean[:], cases[1].mean[:])

    def never(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(latents_module, "encode_latents", never)
    for stage in ("slice", "position", "volume"):
        again = config.model_copy(update={"stage": stage})
        assert not (plan_of(again).missing() if stage != "volume" else [])
    assert torch.equal(open_latents(plan_of(config))[0].mean[:], cases[0].mean[:])


def test_another_autoencoder_or_changed_data_is_encoded_anew(
    config: TrainConfig, data: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    for name in ("phantom0000", "phantom0001"):
        write_prepared(own / f"{name}.zarr", read_prepared(data / f"{name}.zarr"))
    config = config.model_copy(update={"data": own})
    assert fill_here(plan_of(config)) == 4
    case = read_prepared(own / "phantom0001.zarr")
    assert case.image is not None
    changed = case.__class__(**{**vars(case), "image": -case.image})
    write_prepared(own / "phantom0001.zarr", changed)
    assert [t.name for t in plan_of(config).missing()] == ["phantom0001", "phantom0001+1"]
    fresh_autoencoder(tmp_path, 1)
    assert len(plan_of(config).missing()) == 4


def test_a_torn_case_is_encoded_again(config: TrainConfig) -> None:
    plan = plan_of(config)
    fill_here(plan)
    target = plan.tasks[1].target
    next((target / "mean").rglob("0/0/0/0")).write_bytes(b"")
    assert plan.missing() == [plan.tasks[1]]
    assert fill_here(plan) == 1


def test_augmented_copies_are_recorded_and_move_image_and_mask_alike(config: TrainConfig) -> None:
    plan = plan_of(config)
    fill_here(plan)
    task = plan.tasks[1]
    assert open_arrays(task.target).attributes["move"] == task.move.as_record()
    assert task.move == plan_move(config.seed, "phantom0000", 1)
    assert not plan_move(0, "x", 3, flips=False).flip
    disc = ((torch.arange(64) - 40)[:, None] ** 2 + (torch.arange(64) - 25) ** 2 < 100).float()
    move = InPlaneMove(flip=True, rotation_deg=7.0, shift_yx=(0.1, -0.05))
    image = apply_move(disc[None] * 2.0 - 1.0, move, labels=False)
    mask = apply_move(disc[None].to(torch.uint8) * 3, move, labels=True)
    assert mask.dtype == torch.uint8
    assert set(mask.unique().tolist()) == {0, 3}  # type: ignore[no-untyped-call]
    assert abs(int((mask > 0).sum()) - int(disc.sum())) < 12
    agreement = ((image > 0.0) == (mask > 0)).float().mean()
    assert agreement > 0.99


def test_a_shift_moves_by_its_fraction_and_a_flip_mirrors() -> None:
    plane = torch.zeros(1, 10, 10, dtype=torch.uint8)
    plane[0, 2, 3] = 7
    moved = apply_move(plane, InPlaneMove(shift_yx=(0.3, 0.2)), labels=True)
    assert moved[0].nonzero().tolist() == [[5, 5]]
    mirrored = apply_move(plane, InPlaneMove(flip=True), labels=True)
    assert torch.equal(mirrored, plane.flip(-1))


def test_pixels_are_mapped(make_config: MakeConfig, data: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, stage="autoencoder")
    images = open_pixels(plan_of(config))
    expected = read_prepared(data / "phantom0001.zarr").image
    assert expected is not None
    np.testing.assert_array_equal(images["phantom0001"].numpy(), expected.astype(np.float16))
    assert not plan_of(config).missing()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_ray_data_makes_the_same_bytes_and_names_what_fails(
    config: TrainConfig, data: Path, tmp_path: Path
) -> None:
    here, there = config, config.model_copy(update={"work": tmp_path / "other"})
    fill_here(plan_of(here))
    assert fill_on_ray(plan_of(there), 1) == 4
    assert fill_on_ray(plan_of(there), 1) == 0
    for a, b in zip(plan_of(here).tasks, plan_of(there).tasks, strict=True):
        assert (
            open_arrays(a.target).attributes["sha256"] == open_arrays(b.target).attributes["sha256"]
        )
    broken = tmp_path / "broken"
    for name in ("phantom0000", "phantom0001"):
        write_prepared(broken / f"{name}.zarr", read_prepared(data / f"{name}.zarr"))
    for shard in (broken / "phantom0000.zarr" / "image").rglob("0"):
        if shard.is_file():
            shard.write_bytes(b"")
    damaged = here.model_copy(update={"data": broken, "work": tmp_path / "w", "num_augmented": 0})
    with pytest.raises(TrainingError, match="1 of 2 cases cannot be encoded"):
        fill_on_ray(plan_of(damaged), 1)
    assert [t.name for t in plan_of(damaged).missing()] == ["phantom0000"]
