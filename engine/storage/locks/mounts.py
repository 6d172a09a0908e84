"""Which file systems several machines may share: there, locks may hold on one machine only."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ESCAPED = re.compile(r"\\([0-7]{3})")  # blanks in names
_MOUNTS = Path("/proc/self/mountinfo")
_SHARED = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "gpfs", "beegfs", "glusterfs", "9p",
    "afs", "orangefs", "pvfs2", "panfs", "wekafs", "virtiofs", "vboxsf", "prl_fs", "davfs",
}  # fmt: skip


def is_shared(path: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether a folder lies on a network file system, or on one of a user's program (FUSE).

    Args:
        path: the folder.
        mounts: the system's table; without one, nothing is shared.
    """
    kind = _kind(os.path.realpath(path), mounts)
    return kind in _SHARED or kind.startswith("fuse.")


def _kind(path: str, mounts: Path) -> str:
    try:
        table = mounts.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    best, kind = "", ""
    for line in table.splitlines():
        place, _, rest = line.partition(" - ")
        fields = place.split(" ")
        if len(fields) < 5 or not rest:
            continue
        point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # a later mount covers an earlier one
            best, kind = point, rest.split(" ")[0]
    return kind
