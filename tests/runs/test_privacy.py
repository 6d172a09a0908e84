"""What one hands on names no folder and no host; what is private only its user can read."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from engine.parallel.rows.attended import attended
from engine.runs.export.export import ExportJob, export_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.runs.record.identity import RunIdentity, read_identity
from engine.runs.record.names_only import names_only, without_folders
from engine.storage.files import put
from engine.volumes.nifti import write_nifti
from tests.runs.fakes import FakeSampler, LoadFake, make_case, on_disk


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/j.doe/a b/ref.nii: torn", "ref.nii: torn"),
        ("StoreError: /data/Mueller_1961/c.zarr: x; make it", "StoreError: c.zarr: x; make it"),
        ("s3://bucket/run/x: gone", "s3://bucket/run/x: gone"),
        ("1/2 of a/b and 3 / 4", "1/2 of a/b and 3 / 4"),
        ("cannot read '/mnt/p/x.nii.gz'", "cannot read 'x.nii.gz'"),
        ("~/patients/x.nii", "x.nii"),
    ],
)
def test_messages_keep_the_last_name_of_a_path(text: str, kept: str) -> None:
    assert without_folders(text, ["/home/j.doe/a b", ""]).removeprefix("a b/") == kept


def run(config: ResampleConfig, **fake: Any) -> None:
    resample(config, LoadFake(FakeSampler(**fake)))


@pytest.fixture
def mine(config: ResampleConfig, tmp_path: Path) -> ResampleConfig:
    """A run whose slice and data lie in folders that are named after people."""
    home = tmp_path / "j.doe" / "Mueller_1961"
    home.mkdir(parents=True)
    write_nifti(home / "ref.nii.gz", make_case(2)[0])
    on_disk(config.data).rename(home / "prepared")
    update = {"informed": ("own", "fixed"), "slices": (str(home / "ref.nii.gz"),)}
    changed = config.model_copy(update={**update, "data": home / "prepared", "num_pictured": 1})
    return changed.model_copy(update={"gate": config.gate.model_copy(update={"policy": "off"})})


@pytest.mark.usefixtures("no_ray")
def test_no_file_of_a_run_names_a_folder_or_the_host(mine: ResampleConfig) -> None:
    run(mine, fail=frozenset({"case2-own-r00"}))
    shard = on_disk(mine.data) / "case0.zarr" / "mask" / "c" / "0" / "0" / "0"
    words = ["j.doe", "Mueller", str(mine.out), f"{socket.gethostname()}:", str(os.getpid()) + '"']
    shard.unlink()
    (mine.out / "commits" / "case0-own-r00.json").unlink()
    root = Path(str(mine.out))
    for file in sorted(p for p in root.rglob("*") if p.is_file() and p.name != "lock"):
        found = [word for word in words if word.encode() in file.read_bytes()]
        assert not found, (file, found)
    assert "ref.nii.gz" in (root / "run.yaml").read_text()
    assert "told to fail" in (root / "failures.jsonl").read_text()


@pytest.mark.usefixtures("no_ray")
def test_a_run_that_holds_whole_paths_goes_on_as_what_it_is(mine: ResampleConfig) -> None:
    run(mine, fail=frozenset({"case2-own-r00"}))
    path = Path(str(mine.out)) / "run.yaml"
    new = read_identity(path)
    old: RunIdentity = new.model_copy(
        update={"settings": {**new.settings, "slices": [str(mine.slices[0])]}}
    )
    assert names_only(old.settings) == new.settings
    import yaml

    put(path, yaml.safe_dump(old.model_dump(mode="json"), sort_keys=False))
    for record in (Path(str(mine.out)) / "commits").iterdir():
        record.unlink()
    run(mine)
    assert read_identity(path) == old
    commit = (Path(str(mine.out)) / "commits" / "case1-own-r00.json").read_text()
    assert old.settings_sha256 in commit


@pytest.mark.usefixtures("no_ray")
def test_a_private_run_is_its_users_alone(config: ResampleConfig) -> None:
    before = os.umask(0o022)
    try:
        run(config.model_copy(update={"private": True, "num_pictured": 0}))
        root = Path(str(config.out))
        assert not [p for p in [root, *root.rglob("*")] if p.stat().st_mode & 0o077]
    finally:
        os.umask(before)


@pytest.mark.usefixtures("no_ray")
def test_a_private_export_is_its_users_alone(config: ResampleConfig, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        run(config.model_copy(update={"num_pictured": 0}))
        out = tmp_path / "exported"
        export_run(ExportJob(run=config.out, out=out, private=True))
        assert not [p for p in [out, *out.rglob("*")] if p.stat().st_mode & 0o077]
    finally:
        os.umask(before)


def test_what_a_private_pools_workers_write_is_their_users_alone(tmp_path: Path) -> None:
    class Writer:
        def __call__(self, row: dict[str, str]) -> dict[str, str]:
            (tmp_path / row["name"]).touch()
            return row

    before = os.umask(0o022)
    try:
        worker: Any = attended(Writer, "job", None, None, private=True)
        worker()({"name": "a"})
        assert not (tmp_path / "a").stat().st_mode & 0o077
    finally:
        os.umask(before)


@pytest.mark.usefixtures("no_ray")
def test_each_volume_tells_the_code_that_made_it(config: ResampleConfig) -> None:
    run(config.model_copy(update={"num_pictured": 0}))
    root = Path(str(config.out))
    code = read_identity(root / "run.yaml").code
    assert f'"code": "{code}"' in (root / "commits" / "case0-r00.json").read_text()
    assert f"<code>{code}</code></td></tr>" in (root / "report.html").read_text()
