"""A stage through Ray Train: weights and a model card at the end, and errors that can be read."""

from pathlib import Path

import pytest

from engine.errors import TrainingError
from engine.training.config import TrainConfig
from engine.training.loop import train_stage
from engine.volumes.phantom import PhantomConfig, make_phantom
from engine.volumes.prepare import ABDOMEN_CT, prepare_case
from engine.volumes.store import write_prepared
from models.weights import read_manifest


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_stage_trains_on_ray_and_writes_its_card(tmp_path: Path) -> None:
    phantom = make_phantom(1, 0, PhantomConfig(num_slices=16))
    case = prepare_case(phantom.image, phantom.labels, ABDOMEN_CT, "phantom0000")
    write_prepared(tmp_path / "prepared" / "phantom0000.zarr", case)
    config = TrainConfig(
        stage="autoencoder",
        data=tmp_path / "prepared",
        weights=tmp_path / "mine",
        work=tmp_path / "work",
        num_iterations=2,
        batch_size=1,
        crop_px=32,
        threads=1,
        about="Trained by a test.",
    )
    measured = train_stage(config)
    assert measured["iterations"] == 2
    assert read_manifest(tmp_path / "mine").stages["autoencoder"] == measured
    card = (tmp_path / "mine" / "README.md").read_text()
    for words in (
        "Model card: mine",
        "Trained by a test.",
        "Not for science",
        "| autoencoder | 2 |",
    ):
        assert words in card
    assert list((tmp_path / "work" / "tensorboard" / "autoencoder").iterdir())


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_what_a_worker_refuses_reaches_the_user(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = TrainConfig(
        stage="autoencoder", data=tmp_path / "empty", weights=tmp_path / "w", work=tmp_path / "k"
    )
    with pytest.raises(TrainingError, match="no prepared case to train on"):
        train_stage(config)
