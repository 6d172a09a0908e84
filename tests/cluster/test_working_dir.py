"""What `ray job submit --working-dir .` sends, by Ray's own packaging: code, weights, no data."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from engine.paths import CHECKOUT

SENT = ("engine", "models", "cluster", "jobs", "weights")
DATA = (
    "MY_DATASET/imagesTr/pat1_0000.nii.gz",
    "MY_DATASET/dataset.json",
    "engine_data/pat1.nii.gz",
    "data/weights/pat1.nii.gz",
    "weights/pat1.nii.gz",
    "jobs/configs/MY_DATASET/pat1.nii",
    "prepared/brain/pat1.zarr/zarr.json",
    "prepared/dataset.json",
    "runs/mine/volumes/a.ome.zarr/zarr.json",
    "weights/old/a.zarr/zarr.json",
    ".venv/lib/big.so",
    "notes.txt",
)


def tracked() -> list[str]:
    """Files of the checkout that git knows or would know."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git checkout")
    return [name for name in done.stdout.splitlines() if (CHECKOUT / name).is_file()]


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """What arrives on the cluster of a checkout in which a user keeps data."""
    checkout = tmp_path / "checkout"
    for name in tracked():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / name, checkout / name)
    for name in DATA:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"voxels")
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True)
    arrived = tmp_path / "arrived"
    with zipfile.ZipFile(package) as archive:
        archive.extractall(arrived)
    return arrived


def test_code_and_weights_arrive_and_data_does_not(sent: Path) -> None:
    found = {path.relative_to(sent).as_posix() for path in sent.rglob("*") if path.is_file()}
    expected = {n for n in tracked() if n.partition("/")[0] in SENT} | {"pyproject.toml"}
    assert found == expected
    assert "weights/demo_abdomen/config.json" in found
    assert "jobs/configs/resample_abdomen.yaml" in found


def test_what_arrives_is_enough_for_a_job(sent: Path) -> None:
    script = (
        "import sys, engine; sys.path.append('jobs'); import resample_abdomen;"
        "from models.weights.manifest import read_manifest; from pathlib import Path;"
        "from engine.config import load_config;"
        "from engine.runs.jobs.resample import ResampleConfig;"
        "config = load_config(ResampleConfig, resample_abdomen.DEFAULTS);"
        "print(read_manifest(config.weights).class_names, engine.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=sent,
        env={"PYTHONPATH": str(sent), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(sent) in done.stdout
    templates = list(sent.glob("engine/**/*.html"))
    assert len(templates) == len(list(CHECKOUT.glob("engine/**/*.html"))) > 0
