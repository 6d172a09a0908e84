"""Prepares one case of a data set; a pool in `engine/parallel/rows` calls it. Knows no Ray."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from engine.errors import EngineError
from engine.parallel.rows.pipeline import Row
from engine.preparing.records import files_of, source_digests, tree_digest
from engine.volumes.labels.classes import count_labels
from engine.volumes.prepared.class_loss import loss_notes
from engine.volumes.prepared.grid_loss import grid_loss, refuse_loss
from engine.volumes.prepared.manifest import PreparedEntry
from engine.volumes.prepared.prepare import PrepareConfig, prepare_case
from engine.volumes.prepared.store import write_prepared
from engine.volumes.reading import read_image, read_labels


class PrepareWorker:
    """Prepares one case a call; every failure comes back as a row, none as an exception."""

    def __init__(self, out: str, config: str) -> None:
        self._out = Path(out)
        self._config = PrepareConfig.model_validate_json(config)

    def __call__(self, row: Row) -> Row:
        """Read, prepare and store the case of `row`; return its status row."""
        started_s = time.perf_counter()
        status: Row = {**row, "entry": "", "error": ""}
        try:
            status["entry"] = self._prepare(row).model_dump_json()
        except EngineError as error:
            status["error"] = str(error)
        except Exception as error:  # one odd case must not take the others down
            status["error"] = f"{row['mask']}: {type(error).__name__}: {error}; leave the case out"
        status["took_s"] = time.perf_counter() - started_s
        return status

    def given_up(self, row: Row, message: str) -> Row:
        """The status row of a case that is not tried again."""
        return {**row, "entry": "", "error": message, "took_s": 0.0}

    def _prepare(self, row: Row) -> PreparedEntry:
        files, channel = files_of(row)
        sources: dict[str, str] = {}
        with suppress(EngineError, OSError):  # reading names what is wrong with a file
            sources = source_digests(row)  # first, so that a file that changes meanwhile shows
        image = read_image(files["image"], channel=channel) if "image" in files else None
        brain = read_labels(files["brain_mask"]) if "brain_mask" in files else None
        wanted = {*self._config.label_map} if self._config.other_labels == "background" else None
        labels = read_labels(files["mask"], only=wanted)
        case = prepare_case(image, labels, self._config, row["case_id"], brain)
        loss = grid_loss(case)
        refuse_loss(row["mask"], loss, any_class=self._config.lost_classes == "refuse")
        path = self._out / f"{case.case_id}.zarr"
        write_prepared(path, case)
        return PreparedEntry(
            dataset=row["dataset"],
            split=row["split"],
            sha256=tree_digest(path),
            size_zyx=case.size_zyx,
            has_image=case.image is not None,
            sources=sources,
            label_voxels=count_labels(labels.array),
            notes=(*case.notes, *loss_notes(loss)),
            grid_loss=loss,
        )
