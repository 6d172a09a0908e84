"""The locks pin what pyproject asks for, all but torch by hash, and name no source of files."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINNED = re.compile(r"^([\w.-]+)==(\S+?)( \\)?$", re.MULTILINE)
PROFILES = ("cluster/requirements-v100.lock", "cluster/requirements-gpu.lock")
HASHED = re.compile(r"^[\w.-]+==\S+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n?)+", re.MULTILINE)


def _lock(name: str) -> str:
    return (ROOT / name).read_text()


def _versions() -> dict[str, str]:
    text = _lock("requirements-torch.lock") + _lock("requirements.lock")
    return {canonicalize_name(name): version for name, version, _ in PINNED.findall(text)}


def test_each_package_is_pinned_once_and_all_but_torchs_by_hash() -> None:
    torch, rest = _lock("requirements-torch.lock"), _lock("requirements.lock")
    num_torch, num_rest = len(PINNED.findall(torch)), len(PINNED.findall(rest))
    assert "torch==" in torch and "\ntorch==" not in rest
    assert len(HASHED.findall(rest)) == num_rest > 100
    assert len(_versions()) == num_torch + num_rest


def test_the_versions_are_those_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    asked = [*project["project"]["dependencies"], *extras["eval"], *extras["s3"]]
    asked += [name for group in groups.values() for name in group if isinstance(name, str)]
    versions = _versions()
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_the_pair_for_gpus_stands_beside_the_other_locks() -> None:
    """It takes the place of torch's lock, and nothing in it is pinned otherwise by the rest."""
    pair = {canonicalize_name(n): v for n, v, _ in PINNED.findall(_lock(PROFILES[1]))}
    rest = {canonicalize_name(n) for n, _, _ in PINNED.findall(_lock("requirements.lock"))}
    torch = {canonicalize_name(n) for n, _, _ in PINNED.findall(_lock("requirements-torch.lock"))}
    assert torch <= pair.keys()
    assert not pair.keys() & rest
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    found = [r for r in map(Requirement, asked) if canonicalize_name(r.name) in pair]
    assert {r.name for r in found} >= {"torch", "xformers"}
    assert all(r.specifier.contains(pair[canonicalize_name(r.name)]) for r in found)


def test_no_lock_names_an_index_or_a_path() -> None:
    for name in ("requirements-torch.lock", "requirements.lock", *PROFILES):
        lines = [line for line in _lock(name).splitlines() if not line.startswith("#")]
        assert not re.search(r"://|--(index|extra-index|find-links)|/|@", "\n".join(lines))
