"""The precision of a run is chosen once, for its weakest machine, and kept."""

from pathlib import Path

import pytest

from engine.errors import ConfigError, RunError
from engine.parallel.start.session import RaySession
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.planning import precision as run_precision
from engine.runs.planning.precision import ModelLook, common_precision, with_precision
from engine.runs.record.folder import RunFolder
from engine.runs.record.identity import read_identity
from engine.sampling.config import SamplingConfig
from tests.runs.fakes import LoadFake

AMPERE = ("bfloat16", "float16", "float32")
VOLTA = ("float16", "float32")
CPU = ("float32", "bfloat16")
NO_LOOK = ModelLook(Path("no weights"), checks=False)


@pytest.mark.parametrize(
    ("machines", "chosen"),
    [
        ([CPU], "float32"),
        ([AMPERE], "bfloat16"),
        ([VOLTA], "float16"),
        ([AMPERE, VOLTA], "float16"),
        ([VOLTA, AMPERE, AMPERE], "float16"),
    ],
)
def test_auto_is_what_the_weakest_machine_can_do(
    machines: list[tuple[str, ...]], chosen: str
) -> None:
    assert common_precision(machines) == chosen


def has_devices(monkeypatch: pytest.MonkeyPatch, able: tuple[str, ...]) -> None:
    monkeypatch.setattr(run_precision, "_machines", lambda *_: {"this computer": able})


def kept(config: ResampleConfig) -> str:
    folder = RunFolder(Path(str(config.out)))
    return str(read_identity(folder.identity).settings["sampling"]["precision"])


@pytest.mark.usefixtures("no_ray")
def test_a_run_on_cpus_is_float32_and_says_so(config: ResampleConfig) -> None:
    resample(config, LoadFake())
    assert kept(config) == "float32"


@pytest.mark.usefixtures("no_ray")
def test_a_run_keeps_its_precision_on_another_machine(
    config: ResampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_devices(monkeypatch, AMPERE)
    resample(config, LoadFake())
    has_devices(monkeypatch, VOLTA)
    resample(config, LoadFake())
    assert kept(config) == "bfloat16"
    named = config.model_copy(update={"sampling": SamplingConfig(precision="float32")})
    with pytest.raises(RunError, match=r"precision was bfloat16, is now float32"):
        resample(named, LoadFake())


@pytest.mark.usefixtures("no_ray")
def test_a_precision_that_a_machine_cannot_do_is_refused_before_planning(
    config: ResampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_devices(monkeypatch, VOLTA)
    named = config.model_copy(update={"sampling": SamplingConfig(precision="bfloat16")})
    with pytest.raises(ConfigError, match=r"this computer can do float16 and float32 only"):
        resample(named, LoadFake())
    assert not RunFolder(Path(str(config.out))).plan.exists()


def test_float32_asks_no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_precision, "_machines", lambda _: pytest.fail("asked a machine"))
    named = SamplingConfig(precision="float32")
    assert with_precision(named, RunFolder(tmp_path), RaySession(), NO_LOOK) == named


@pytest.mark.usefixtures("no_ray")
def test_a_new_run_looks_at_weights_and_device_in_one_process(
    config: ResampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def in_own_process(function: object, *args: object) -> tuple[str, ...]:
        asked.append(args)
        return CPU

    monkeypatch.setattr(run_precision, "in_own_process", in_own_process)
    resample(config, LoadFake())
    resample(config, LoadFake())
    assert asked == [(config.weights,)]
