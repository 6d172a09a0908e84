"""What tests share: real volumes, one small Ray, and a clean, quiet environment.

Ray reads some of its settings when it is imported, so they are set here, before any test is.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

for _name in [name for name in os.environ if name.startswith("RAY_")]:
    del os.environ[_name]  # tests never join a cluster of the user's
os.environ.update(
    {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on 127.0.0.1 only
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_worker_niceness": "0",  # 15 by default, which starves tests on a busy machine
        "MPLBACKEND": "agg",
        "OMP_WAIT_POLICY": "passive",  # spinning threads of other processes starve these
        "HF_HUB_OFFLINE": "1",
    }
)

# Machines differ in speed, so no deadlines; the same examples every time, so that CI repeats.
settings.register_profile(
    "engine",
    deadline=None,
    max_examples=30,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("thorough", parent=settings.get_profile("engine"), max_examples=500)
settings.register_profile(
    "ten_thousand", parent=settings.get_profile("engine"), max_examples=10_000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "engine"))


@pytest.fixture(autouse=True)
def own_ctrl_c() -> Iterator[None]:
    """A command that was interrupted in this process ends it at the next Ctrl-C; tests go on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


SLOW = {ROOT / name for name in (ROOT / "tests" / "slow_files.txt").read_text().split()}
"""Files with tests of many seconds, as measured with `--durations`; all of theirs are `slow`."""


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray come last: it stays in the process, and others would find it there.

    They mostly wait, so that one beside the other costs little. Needs `--no-loadscope-reorder`, or
    pytest-xdist begins with the files of most tests.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
        if item.path in SLOW:
            item.add_marker("slow")
    starts_ray = {
        path for path, own in files.items() if any(i.get_closest_marker("ray") for i in own)
    }
    order = sorted(files, key=lambda path: path in starts_ray)
    items[:] = [item for path in order for item in files[path]]


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A job that a test runs in this process shows its log; the next test starts without."""
    root = logging.getLogger("engine")
    before = (list(root.handlers), root.level, root.propagate)
    yield
    root.handlers[:], root.level, root.propagate = before


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets (Dataset001_BrainFLAIR, ...); skips the test without it."""
    folder = Path(os.environ.get("GEM3D_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "Dataset002_AbdomenCT").is_dir():
        pytest.skip(f"no real volumes in {folder}; set GEM3D_DATA to their folder")
    return folder.resolve()


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """Where the shared Ray keeps its sockets: a short path, removed at the end."""
    import ray

    folder = tempfile.mkdtemp(prefix="gem3d-")
    try:
        yield Path(folder)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def local_ray(ray_folder: Path) -> None:
    """A Ray of two CPUs in this process, shared by all tests that ask for it."""
    import ray

    if not ray.is_initialized():  # the first test that asks, or one before it shut Ray down
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=256 * 2**20,
            log_to_driver=False,
            _temp_dir=str(ray_folder),
        )


@pytest.fixture(autouse=True)
def no_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has a process of its own is called here: starting one takes seconds each time."""
    for module in ("jobs.harmonize", "report.page", "planning.precision"):
        monkeypatch.setattr(
            f"engine.runs.{module}.in_own_process", lambda function, *args: function(*args)
        )
