"""The wheel holds every package, template and type marker, and is imported without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, built from a copy: building leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("engine", "models", "cluster"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "-w", str(folder), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("gem3d_engine-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_it_holds_what_the_checkout_holds(unpacked: Path) -> None:
    for name in ("engine", "models", "cluster"):
        files = {
            path.relative_to(ROOT)
            for path in (ROOT / name).rglob("*")
            if path.suffix in (".py", ".html", ".css", ".typed")
        }
        assert len(files) > 3
        assert sorted(str(f) for f in files if not (unpacked / f).is_file()) == []


def test_it_is_imported_without_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    code = "import engine, models.presets, cluster, engine.config; print(engine.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(unpacked))
