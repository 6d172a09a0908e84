"""Files in a run folder that no job of the engine put there, and that harm nothing.

File managers, network disks, editors and people leave files in `volumes/`, `commits/` and exports.
They are named by verification and removed on request only. Decides nothing about volumes: a file
that a reader of Zarr would read is damage, and the business of `volume_check.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from engine.errors import printable
from engine.log import get_logger
from engine.runs.audit.volume_check import FOREIGN, Finding
from engine.runs.export.records import RECORDS_NAME, read_records
from engine.runs.record.folder import RunFolder
from engine.storage.backends.find import storage_at
from engine.storage.disk_files import STAGED
from engine.storage.foreign import is_litter

log = get_logger(__name__)


def foreign_in_run(folder: RunFolder, known: Collection[str]) -> Iterator[Finding]:
    """Foreign files of a run beside its volumes, each named relative to the run folder.

    Args:
        folder: the run.
        known: samples that are planned, or that have a commit record.
    """
    for parent, ending in ((folder.volumes, folder.volume_ending), (folder.commits, ".json")):
        for place in storage_at(parent).children():
            name = place.name
            is_known = name.endswith(ending) and name.removesuffix(ending) in known
            if not is_known and not STAGED.fullmatch(name):  # of a job that may be at work
                yield Finding("", FOREIGN, f"{parent.name}/{name}")
    root = storage_at(folder.root).local
    if root is not None:
        for records in sorted(root.glob(f"export*/{RECORDS_NAME}")):
            export = records.parent
            for name in read_records(export).foreign():
                yield Finding("", FOREIGN, f"{export.name}/{name}")


def remove_all(folder: RunFolder, found: Collection[Finding]) -> list[Finding]:
    """Remove foreign files; in exports only what systems and editors leave, never a person's.

    Returns:
        What is gone.
    """
    removed = []
    for finding in found:
        inside = finding.detail.split("/", 1)[0] in (folder.volumes.name, folder.commits.name)
        if not inside and not is_litter(finding.detail.rstrip("/")):
            continue
        place = folder.root / finding.detail.rstrip("/")
        try:
            storage_at(place).remove()
        except OSError as error:
            log.warning("%s: cannot be removed (%s)", printable(str(place)), error.strerror)
            continue
        log.info("%s: removed", printable(str(place)))
        removed.append(finding)
    return removed
