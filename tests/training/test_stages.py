"""Every stage declares itself; the settings of all of them are declared once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

import engine.training
import jobs.train_model as job
from engine.parallel.start.session import RaySession
from engine.training.config import TrainConfig, TrainSettings
from engine.training.examples import cases as cases_module
from engine.training.loop.checkpoint import stage_identity
from engine.training.settings.stages import STAGE_SETTINGS, Stage
from engine.training.stages import survey as survey_module
from engine.training.stages.registry import STAGES
from models.presets import PRESETS
from tests.training.conftest import MakeConfig

# What the checkpoints of half-finished trainings name; a setting less or more and none is resumed.
IDENTITY = {
    "adversarial_start", "adversarial_weight", "architecture", "augment_flip", "autoencoder",
    "case_weight", "class_weight", "condition_dropout", "crop_px", "data", "denoiser",
    "distill_start", "distill_steps", "ema_half_life", "grad_clip", "high_noise_share", "holdout",
    "image_encoder", "kl_weight", "learning_rate", "loss_weighting", "max_overlap",
    "min_snr_gamma", "num_augmented", "perceptual", "perceptual_weight", "precision", "preset",
    "schedule", "seed", "slice_gradient_weight", "squared_weight", "stage", "start_from",
    "timesteps", "tune", "warmup", "weight_decay", "weights",
}  # fmt: skip


def test_each_name_has_a_class_and_settings() -> None:
    names = set(get_args(Stage))
    assert names == set(STAGES) == set(STAGE_SETTINGS)
    for name, kind in STAGE_SETTINGS.items():
        assert STAGES[name].name == kind.model_fields["stage"].default == name


@pytest.mark.parametrize("name", get_args(Stage))
def test_every_setting_is_in_one_part_and_those_of_the_stage_in_its_own(name: str) -> None:
    config = TrainConfig.model_validate({"stage": name, "start_from": "teacher", "seed": 7})
    settings = config.nested()
    parts = [getattr(settings, key) for key in TrainSettings.model_fields]
    keys = [key for part in parts for key in type(part).model_fields]
    assert len(keys) == len(set(keys))
    assert type(settings.stage) is STAGE_SETTINGS[config.stage]
    everywhere = {key for kind in STAGE_SETTINGS.values() for key in kind.model_fields}
    assert set(keys) | everywhere == set(TrainConfig.model_fields)
    for part in parts:
        for key in type(part).model_fields:
            assert getattr(part, key) == getattr(config, key)
    assert TrainSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_checkpoints_of_earlier_versions_name_the_same_settings() -> None:
    assert set(stage_identity(TrainConfig(), PRESETS["demo"])) == IDENTITY


def test_only_the_registry_asks_which_stage_it_is() -> None:
    room = Path(engine.training.__file__).parent
    asks = re.compile(r"\.stage (==|!=|in|not in) ")
    found = [path.name for path in room.rglob("*.py") if asks.search(path.read_text())]
    assert found == []


@pytest.mark.usefixtures("process_group")
def test_a_job_looks_at_its_cases_once(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, stage="autoencoder", num_iterations=1, sample_steps=1)
    looked: list[str] = []

    def counted(config: TrainConfig, *, held_out: bool = False) -> object:
        looked.append("held out" if held_out else "training")
        return cases_module.find_cases(config, held_out=held_out)

    monkeypatch.setattr(survey_module, "find_cases", counted)
    monkeypatch.setattr(RaySession, "start", lambda *_, **__: pytest.fail("Ray was started"))
    path = tmp_path / "train.yaml"
    path.write_text(_yaml(config))
    assert job.main(["--config", str(path)]) == 0
    assert looked == ["training", "held out"]


def _yaml(config: TrainConfig) -> str:
    return config.model_dump_json()  # JSON is YAML
