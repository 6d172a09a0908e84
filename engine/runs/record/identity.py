"""What a run is made of: its settings, weights, data and code, written once as run.yaml.

A rerun with other settings, weights or data is refused by the name of the difference: two halves of
one run folder always come from one source. Versions are written down and not compared.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from engine.config import FrozenConfig, load_yaml
from engine.errors import RunError, StoreError, StoreUnreachableError
from engine.runs.record.names_only import names_only
from engine.storage.checked_files import read_text
from engine.storage.digests import hash_file as hash_file
from engine.storage.digests import sha256_of as sha256_of
from engine.storage.files import put
from engine.storage.places import Place
from engine.weights import weights_errors
from models.weights.manifest import digest_of, hash_files

RUN_FORMAT = 2
"""Of run folders that this version makes. 1: version 0.1.0, which wrote no number."""
_PACKAGES = ("gem3d-engine", "torch", "ray", "diffusers", "numpy", "zarr")


class RunIdentity(FrozenConfig):
    """Content of run.yaml.

    Attributes:
        format: of the run folder, see `RUN_FORMAT`.
        job: name of the job.
        settings: those that decide what the volumes contain, resolved.
        weights_sha256: digest of the weights folder (`models.weights.manifest.weights_sha256`).
        weights: sha256 of each of its files, by name.
        data: sha256 of what describes the data set.
        machine: settings that do not change the volumes (workers, places); not compared.
        versions: of the packages and Python; not compared.
        code: commit of the code where it lies in a git checkout, else "unknown"; not compared.
    """

    format: int = RUN_FORMAT
    job: str
    settings: dict[str, Any]
    weights_sha256: str
    weights: dict[str, str]
    data: dict[str, str]
    machine: dict[str, Any]
    versions: dict[str, str]
    code: str

    @property
    def settings_sha256(self) -> str:
        """Hash of settings and data; with the weights' digest it names what made a volume."""
        return sha256_of({"settings": self.settings, "data": self.data})


def write_or_check(path: Place, identity: RunIdentity) -> None:
    """Write run.yaml of a new run; compare with it in a run that has one.

    Raises:
        RunError: settings, weights or data differ (names each difference), or the run was made by
            another version.
        StoreError: run.yaml is there but cannot be understood.
    """
    if not path.exists():
        put(path, yaml.safe_dump(identity.model_dump(mode="json"), sort_keys=False))
        return
    found = read_identity(path)
    if found.format < RUN_FORMAT:
        raise RunError(
            f"{path.parent}: made by version {found.versions.get('gem3d-engine', 'unknown')} "
            f"(run format {found.format}; this version makes format {RUN_FORMAT}); it can be "
            "verified and exported, but not continued: make the rest in a new run with --out"
        )
    differences = _differences(found, identity)
    if differences:
        raise RunError(
            f"{path.parent}: this run was begun otherwise: {'; '.join(differences)}. "
            "Go back to those settings, or choose another place with --out"
        )


def read_identity(path: Place) -> RunIdentity:
    """Read run.yaml.

    Raises:
        StoreError: it is missing or damaged.
        RunError: a later version made the run.
    """
    try:
        raw = load_yaml(read_text(path))
        if isinstance(raw, dict):
            raw = {"format": 1, **raw}
            _refuse_later(path, raw["format"])
        return RunIdentity.model_validate(raw)
    except FileNotFoundError:
        raise StoreError(
            f"{path}: missing, and nothing else says with which settings and weights this run was "
            "made; put it back from a copy, or make a new run with --out"
        ) from None
    except (StoreUnreachableError, RunError):
        raise
    except (OSError, ValueError, yaml.YAMLError):
        raise StoreError(
            f"{path}: not a run description of this version; put it back from a copy, or make a "
            "new run with --out"
        ) from None


def _refuse_later(path: Place, number: object) -> None:
    if isinstance(number, int) and number > RUN_FORMAT:
        raise RunError(
            f"{path.parent}: run format {number}, made by a later version; this version knows "
            f"formats up to {RUN_FORMAT}: install the version that made it"
        )


def hash_weights(folder: Path) -> tuple[str, dict[str, str]]:
    """Digest of a weights folder, and sha256 of each of its files by name.

    Raises:
        WeightsError: the folder holds no complete model.
    """
    with weights_errors():
        files = hash_files(folder)
    return digest_of(files), files


def code_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def code_commit() -> str:
    """Commit of the checkout that this file lies in (marked when changed), or "unknown"."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def _differences(old: RunIdentity, new: RunIdentity) -> list[str]:
    differences = []
    for title in ("job", "settings", "weights", "data"):
        before = _flat(title, names_only(getattr(old, title)))
        after = _flat(title, names_only(getattr(new, title)))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                was, now = (_short(side.get(key, "nothing")) for side in (before, after))
                differences.append(f"{key} was {was}, is now {now}")
    return differences


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """A nested mapping as one level, keys joined by dots; lists as tuples do not differ."""
    if not isinstance(value, Mapping):
        return {prefix: json.loads(json.dumps(value, default=str))}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(f"{prefix}.{key}", inner))
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
