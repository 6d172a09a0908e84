"""A run's committed volumes -> NIfTI on each mask's own grid, for tools that do not read Zarr.

Trusts commit records only: what is exported has the bytes that were committed. A file that exists
is kept, so that a broken-off export goes on. Knows no model.
"""

from __future__ import annotations

from pathlib import Path

from engine.config import FrozenConfig
from engine.errors import ConfigError, RunError, StoreError
from engine.log import get_logger
from engine.runs.folder import RunFolder
from engine.runs.ledger import read_commits
from engine.runs.plan import read_plan
from engine.volumes.nifti import write_nifti
from engine.volumes.store import hash_tree, read_ome_zarr

log = get_logger(__name__)


class ExportJob(FrozenConfig):
    """Settings of jobs/export_volumes.py.

    Attributes:
        run: the run folder; required.
        out: folder for `images/` and `labels/`; None is `export` in the run folder.
    """

    run: Path | None = None
    out: Path | None = None


def export_run(job: ExportJob) -> list[Path]:
    """Write every committed volume and its mask.

    Returns:
        The images, in the plan's order, written now or before.

    Raises:
        ConfigError: no run given.
        RunError: not a run folder, or nothing is committed yet.
        StoreError: a volume is not what was committed.
    """
    if job.run is None:
        raise ConfigError("no run to export; give --run FOLDER")
    folder = RunFolder(job.run)
    if not folder.plan.is_file():
        raise RunError(f"{job.run}: not a run folder (no plan.jsonl); give one that a job made")
    names = [row.sample_id for row in read_plan(folder.plan)]
    commits = read_commits(folder, names)
    if not commits:
        raise RunError(f"{job.run}: no volume is committed yet; run the job first")
    out = job.out or job.run / "export"
    paths = []
    for number, (name, commit) in enumerate(commits.items(), start=1):
        paths.append(_export(folder.volume(name), name, out, commit.files))
        log.info("%d of %d exported: %s", number, len(commits), name)
    return paths


def _export(stored: Path, name: str, out: Path, files: dict[str, str]) -> Path:
    image_path, mask_path = (out / kind / f"{name}.nii.gz" for kind in ("images", "labels"))
    if image_path.is_file() and mask_path.is_file():
        return image_path
    if hash_tree(stored) != files:
        raise StoreError(f"{stored}: differs from its commit record; delete it and run the job")
    image, mask, _ = read_ome_zarr(stored)
    for path, volume in ((mask_path, mask), (image_path, image)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, volume)
    return image_path
