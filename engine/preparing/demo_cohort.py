"""The demo's embedded data set: eight phantoms, two of them kept out of training, and a real CT.

The phantoms come from `engine/volumes/phantoms` and take the way of any data set: NIfTI in nnU-Net
raw layout, then prepared Zarr. The real case joins when its data lies beside the checkout.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from engine.errors import RunError
from engine.log import get_logger
from engine.paths import CHECKOUT, path_to_read
from engine.preparing.dataset import prepare_dataset
from engine.volumes.phantoms.cohort import DEMO_INDICES, HELD_OUT_IDS, phantom_id, write_cohort
from engine.volumes.prepared.manifest import MANIFEST_NAME, read_manifest
from engine.volumes.prepared.prepare import ABDOMEN_CT

log = get_logger(__name__)

REMARKS = dict.fromkeys(HELD_OUT_IDS, "a phantom kept out of the demo weights' training")
_REAL_SET = "Dataset002_AbdomenCT"


def build_demo_cohort(folder: Path, start_ray: Callable[[], None]) -> Path:
    """Make the demo's prepared data set, or the rest of it.

    Args:
        folder: raw phantoms go to `folder/raw`, prepared cases to `folder/prepared`.
        start_ray: called before work that needs Ray, so that it starts once for the whole job.

    Returns:
        The folder of prepared cases.

    Raises:
        RunError: a case was refused.
    """
    raw, prepared = folder / "raw", folder / "prepared"
    if _is_complete(prepared):
        return prepared
    start_ray()
    real = real_data() / _REAL_SET
    if real.is_dir():  # before the phantoms: these are what says that the cohort is complete
        log.info("adding the real abdomen of %s", _REAL_SET)
        _prepare(real, prepared)
    else:
        log.info("no %s in %s: the demo has phantoms only", _REAL_SET, real_data())
    log.info("making %d phantoms", len(DEMO_INDICES))
    write_cohort(raw, DEMO_INDICES)
    _prepare(raw, prepared)
    return prepared


def real_data() -> Path:
    """Folder of real data sets: GEM3D_DATA, or `shared/data` beside the checkout."""
    default = CHECKOUT.parent / "shared" / "data"
    return path_to_read(Path(os.environ.get("GEM3D_DATA") or default))


def _prepare(source: Path, prepared: Path) -> None:
    failed = prepare_dataset(source, prepared, ABDOMEN_CT).failed
    if failed:
        reasons = "; ".join(f"{case}: {reason}" for case, reason in failed.items())
        raise RunError(f"{source}: the demo cohort cannot be prepared ({reasons})")


def _is_complete(prepared: Path) -> bool:
    """All phantoms are listed (a job that was killed in between goes on)."""
    if not (prepared / MANIFEST_NAME).exists():
        return False
    return {phantom_id(index) for index in DEMO_INDICES} <= read_manifest(prepared).cases.keys()
