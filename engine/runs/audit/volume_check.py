"""What is wrong with one committed volume: its record, its origin, its files, its metadata.

Every file is read and hashed again. Changes nothing; what becomes of a finding is the business of
`verify.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from engine.errors import StoreError, StoreUnreachableError
from engine.runs.making.ome import ome_faults
from engine.runs.record import ledger
from engine.runs.record.folder import RunFolder
from engine.runs.record.plan import PlanRow, retry_seed
from engine.runs.record.records import Commit
from engine.storage.backends.find import storage_at
from engine.storage.foreign import is_read
from engine.storage.places import Place
from engine.volumes.store import hash_tree

FOREIGN = "foreign file"
"""Kind of a finding that is no damage: a file that no reader of Zarr asks for."""


class Origin(NamedTuple):
    """What a volume is said to be made of, by the plan and run.yaml, or by its commit record.

    Attributes:
        case: whose mask.
        slice: `CASE:Z` of the informed slice.
        settings: sha256 of the settings and the data; empty where run.yaml is not there.
        weights: sha256 of the weights; empty where run.yaml is not there.
        row: sha256 of the plan row; empty in runs of format 1, whose records do not name it.
        seed: of the noise.
    """

    case: str
    slice: str
    settings: str
    weights: str
    row: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one sample.

    Attributes:
        sample_id: of the sample.
        kind: for example "missing file", "changed file", "bad commit record"; `FOREIGN` is no
            damage, and may belong to no sample.
        detail: which file, or why; of `FOREIGN` relative to the run folder, of others to the
            volume.
    """

    sample_id: str
    kind: str
    detail: str


def planned_origin(row: PlanRow, settings: str, weights: str, run_format: int) -> Origin:
    """What the volume of a plan row is to be made of, by a run of those digests and format."""
    informed = f"{row.informed_case}:{row.informed_z}"
    sha256 = row.sha256 if run_format > 1 else ""
    return Origin(row.case_id, informed, settings, weights, sha256, row.seed)


def check_volume(
    folder: RunFolder, sample_id: str, planned: Origin | None = None
) -> Iterator[Finding]:
    """What is wrong with one committed volume.

    Args:
        folder: the run.
        sample_id: of the volume.
        planned: what it should be made of; None does not ask.
    """
    try:
        commit = ledger.read_commit(folder, sample_id)
    except StoreUnreachableError:
        raise
    except StoreError as error:
        yield Finding(sample_id, "bad commit record", str(error))
        return
    if commit is None:
        return
    if commit.sample_id != sample_id or not commit.files:
        yield Finding(sample_id, "bad commit record", f"it is of {commit.sample_id!r}")
        return
    if planned and planned.row and not commit.digest:
        yield Finding(sample_id, "bad commit record", "it has no digest of itself")
    for difference in _other_origin(planned, commit) if planned else ():
        yield Finding(sample_id, "other origin", difference)
    path = ledger.volume_of(folder, commit)
    storage = storage_at(path)
    if (target := storage.link_target()) is not None:
        yield Finding(sample_id, "link", f"{path.name} points to {target}")
        return
    if not path.is_dir():
        yield Finding(sample_id, "missing volume", path.name)
        return
    odd = [*_odd(sample_id, path)]
    yield from odd
    if odd:
        return
    try:
        there = hash_tree(path)
    except StoreUnreachableError:
        raise
    except OSError as error:
        yield Finding(sample_id, "unreadable volume", str(error))
        return
    yield from _other_files(sample_id, path, commit, there)
    yield from _foreign(folder, sample_id, path, commit)
    for fault in ome_faults(path):
        yield Finding(sample_id, "not OME-Zarr 0.5", fault)


def _other_files(
    sample_id: str, path: Place, commit: Commit, there: Mapping[str, str]
) -> Iterator[Finding]:
    """Files that are not what the record says: missing, extra, changed, or no files."""
    links = set(storage_at(path).misplaced_links(commit.files))
    for name in sorted(commit.files.keys() | there.keys() | links):
        kind = _difference(path / name, commit.files.get(name), there.get(name))
        if name in links:
            kind = "link" if _is_link(path / name) else "no regular file"
        if kind:
            yield Finding(sample_id, kind, name)


def _is_link(place: Place) -> bool:
    return storage_at(place).link_target() is not None


def _odd(sample_id: str, path: Place) -> Iterator[Finding]:
    """What readers would open, and cannot read as a file or folder."""
    for name, kind in storage_at(path).odd_files(is_read).items():
        found = "no regular file"
        if kind.startswith("cannot"):
            found = "unreadable file"
        elif _is_link(path / name):
            found = "link"
        yield Finding(sample_id, found, f"{name} {kind}")


def _foreign(folder: RunFolder, sample_id: str, path: Place, commit: Commit) -> Iterator[Finding]:
    where = f"{folder.volumes.name}/{path.name}"
    if path.parent != folder.volumes:  # in a folder of all attempts at the sample
        where = f"{folder.volumes.name}/{sample_id}/{path.name}"
        for other in path.parent.iterdir():
            if not other.name.endswith(".ome.zarr"):  # other attempts' volumes do
                name = f"{folder.volumes.name}/{sample_id}/{other.name}"
                yield Finding(sample_id, FOREIGN, name)
    for name in storage_at(path).foreign_files(commit.files):
        yield Finding(sample_id, FOREIGN, f"{where}/{name}")


def _other_origin(planned: Origin, commit: Commit) -> Iterator[str]:
    """In what a volume was made of something else than was planned."""
    made = Origin(
        commit.case_id,
        f"{commit.informed_case}:{commit.informed_z}",
        commit.config_sha256 if planned.settings else "",
        commit.weights_sha256 if planned.weights else "",
        commit.row_sha256 if planned.row else "",
        commit.seed,
    )
    seed = retry_seed(planned.seed, commit.sample_id, commit.quality.retries)
    for name, was, now in zip(Origin._fields, planned._replace(seed=seed), made, strict=True):
        if was != now:
            yield f"{name} {str(now)[:60]}, planned {str(was)[:60]}"


def _difference(file: Place, expected: str | None, found: str | None) -> str:
    if expected is None:
        return "extra file"
    if found is None:
        return "missing file"
    if expected == found:
        return ""
    return "changed file" if file.stat().st_size else "empty file"
