"""What tests of the stages share: two phantoms, settings, one process group, trained weights."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from engine.training.config import TrainConfig
from engine.training.loop.training import run_stage
from engine.volumes.phantoms.cohort import phantom_id
from engine.volumes.phantoms.phantom import PhantomConfig, make_phantom
from engine.volumes.prepared.prepare import ABDOMEN_CT, prepare_case
from engine.volumes.prepared.store import write_prepared

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of one, as DeepSpeed wants it; one for all, because DeepSpeed keeps the first."""
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


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prepared phantoms of 17 slices."""
    folder = tmp_path_factory.mktemp("prepared")
    for index in range(2):
        phantom = make_phantom(1, index, PhantomConfig(num_slices=17))
        case = prepare_case(phantom.image, phantom.labels, ABDOMEN_CT, phantom_id(index))
        write_prepared(folder / f"{case.case_id}.zarr", case)
    return folder


@pytest.fixture(scope="session")
def make_config(data: Path) -> MakeConfig:
    """Settings of a short stage below a folder."""

    def make(folder: Path, **changes: object) -> TrainConfig:
        fields: dict[str, object] = {
            "data": data,
            "weights": folder / "weights",
            "work": folder / "work",
            "num_iterations": 2,
            "batch_size": 1,
            "crop_px": 32,
            "threads": 1,
            "warmup": 1,
            "trackers": (),
        }
        return TrainConfig.model_validate({**fields, **changes})

    return make


@pytest.fixture(scope="session")
def trained(
    make_config: MakeConfig, process_group: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder whose autoencoder and slice stage were trained for two steps."""
    del process_group
    folder = tmp_path_factory.mktemp("trained")
    run_stage(make_config(folder, stage="autoencoder"))
    run_stage(make_config(folder, stage="slice"))
    return folder


@pytest.fixture
def copied(trained: Path) -> Callable[[Path], Path]:
    """Copies the trained weights into a folder of the test's own."""

    def copy(target: Path) -> Path:
        (target / "weights").mkdir(parents=True)
        for path in (trained / "weights").iterdir():
            (target / "weights" / path.name).write_bytes(path.read_bytes())
        return target

    return copy
