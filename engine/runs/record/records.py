"""What the ledger writes: commit records and attempt records, and what they hold.

Knows no files; `ledger/` reads and writes them.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, model_validator

from engine.config import FrozenConfig
from engine.evaluation.values import VolumeMeasures
from engine.storage.digests import sha256_of
from engine.volumes.prepared.class_loss import ClassLoss


class Quality(FrozenConfig):
    """What the quality gate said of a volume (see `evaluation.quality`).

    Attributes:
        flags: what is wrong with it, each in a few words; empty is nothing.
        retries: seeds that were tried before this one.
    """

    flags: tuple[str, ...] = ()
    retries: int = 0


class Commit(FrozenConfig):
    """What a sample's commit record says.

    Attributes:
        files: sha256 of every file of the volume, by name relative to its folder.
        config_sha256: of the settings that decide the volume's content.
        informed_z: slice of the informed case, on its prepared grid.
        target_z: slice of this volume at the same relative height, on the prepared grid.
        joins: z on the prepared grid where slices z - 1 and z come from different windows.
        timings_s: seconds by stage.
        peak_memory_mb: of the worker process until then.
        measures: what `evaluation.measures` knows to measure, by name.
        code: commit of the code that the worker ran; empty in runs of earlier versions.
        row_sha256: of the plan row that it was made by (`PlanRow.sha256`); empty in records of
            version 0.1.0.
        grid_loss: what the model's grid loses of the mask; empty in records of version 0.1.0.
        volume: in an object store, which attempt's volume it is (see `ledger.volume_of`).
        lock: number of the run's lock that the worker's job held; 0 is unknown.
        digest: sha256 of all the rest, so that a record that was edited by hand is found; empty in
            records of version 0.1.0. It is no signature: who computes it anew can say anything.
    """

    sample_id: str
    case_id: str
    informed_case: str
    informed_z: int
    target_z: int
    seed: int
    attempt: int
    files: dict[str, str]
    config_sha256: str
    weights_sha256: str
    num_windows: int
    joins: tuple[int, ...]
    size_zyx: tuple[int, int, int]
    timings_s: dict[str, float]
    peak_memory_mb: float
    measures: VolumeMeasures
    quality: Quality = Quality()
    committed_at: float
    code: str = ""
    row_sha256: str = ""
    grid_loss: dict[str, ClassLoss] = Field(default_factory=dict)
    volume: str = Field("", pattern=r"^([0-9]+\.[0-9a-f]+\.ome\.zarr)?$")
    lock: int = 0
    digest: str = ""

    def sealed(self) -> Commit:
        """The record with its digest, as it goes to disk."""
        return self.model_copy(update={"digest": _digest(json.loads(self.model_dump_json()))})

    @model_validator(mode="before")
    @classmethod
    def _is_what_was_written(cls, fields: Any) -> Any:
        """Fields that come from a file with a digest must be those that went into it."""
        digest = fields.get("digest") if isinstance(fields, dict) else None
        if digest and digest != _digest(fields):
            raise ValueError("changed after it was written")
        return fields


def _digest(fields: dict[str, Any]) -> str:
    """Of a record's fields as its file names them: it stays true when later versions add some."""
    return sha256_of({name: value for name, value in fields.items() if name != "digest"})


class Attempt(FrozenConfig):
    """One try at a sample.

    Attributes:
        node: the worker's process in the cluster (of earlier versions: its computer); empty outside
            Ray.
        case_id: whose mask.
        alone: no other sample was in the worker with it.
        outcome: None means that nobody reported how it ended; "lost" that its worker was killed
            with others in it; "rejected" that the quality gate refused the volume for good.
        lock: number of the run's lock that the worker's job holds; 0 is unknown.
        slot: in an object store, of its commit record (see `ledger/slots.py`).
        killed: it failed because its worker was killed (earlier versions did not say).
    """

    sample_id: str
    number: int
    started_at: float
    worker: str
    node: str = ""
    case_id: str = ""
    alone: bool = True
    outcome: Literal["committed", "failed", "interrupted", "lost", "rejected"] | None = None
    error: str | None = None
    lock: int = 0
    slot: int = 0
    killed: bool = False

    @property
    def unique_name(self) -> str:
        """Of the volume that it writes: of no other attempt, whoever made that."""
        return f"{self.number}.{int(self.started_at * 1e6):x}.ome.zarr"
