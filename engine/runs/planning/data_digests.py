"""What a plan row is made of, as digests: the prepared cases and the drawn mask it names.

They stand in the plan, and a worker compares what it has read: a case that is prepared again, or
edited, after the run was planned is refused by name. Metadata only is read here. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine.runs.record.plan import PlanRow, in_run, stored_at
from engine.storage.digests import hash_file, sha256_of
from engine.storage.places import Place
from engine.volumes.prepared.manifest import PreparedManifest
from engine.volumes.prepared.store import read_prepared_header


def with_digests(rows: Iterable[PlanRow], root: Place, data: Place) -> Iterator[PlanRow]:
    """The rows as they come, each with the digests of what it names.

    Args:
        rows: as planned.
        root: the run folder.
        data: folder of the prepared cases.

    Raises:
        StoreError: a prepared case or a drawn mask is missing or damaged.
    """
    known: dict[str, str] = {"": ""}

    def digest(source: str) -> str:
        if source not in known:
            known[source] = read_prepared_header(stored_at(root, data, source)).digest
        return known[source]

    for row in rows:
        drawn = hash_file(stored_at(root, data, in_run(row.drawn_mask))) if row.drawn_mask else ""
        update = {
            "mask_sha256": digest(row.mask_source),
            "informed_sha256": digest(row.informed_source),
            "drawn_sha256": drawn,
        }
        yield row.model_copy(update=update)


def data_digest(manifest: PreparedManifest) -> dict[str, str]:
    """What describes a prepared data set in run.yaml."""
    return {"prepared cases": cases_digest(manifest)}


def cases_digest(manifest: PreparedManifest) -> str:
    """Changes with any prepared case."""
    return sha256_of({i: c.sha256 for i, c in manifest.cases.items()})
