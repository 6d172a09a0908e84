"""Worker of an evaluation: rows in, numbers and features out. Volumes never travel.

Kinds of rows: a volume of the run, a real case, replicas of one mask, a pair of volumes of one mask
with different informed slices. Knows no Ray.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError
from engine.evaluation.comparisons import COMPARISONS, compare_volume
from engine.evaluation.diversity.informed import influence_by_slice, own_height_ratio
from engine.evaluation.diversity.replicas import (
    are_near_copies,
    calibration,
    spread,
    spread_by_slice,
)
from engine.evaluation.subject import Subject
from engine.runs.evaluating.features import Perceptual, SliceFeatures
from engine.runs.evaluating.reading import OWN_ROW, Beside, VolumeReader
from engine.runs.evaluating.settings import EvaluateJob
from engine.runs.making.rivals import LoadRival
from engine.runs.record.plan import PlanRow
from engine.storage.places import Place

Row = dict[str, Any]
REAL_ROW = "real"
_RANGE = 2.0
_GROUP_OF = {measure.name: measure.group for measure in COMPARISONS}


@dataclass(frozen=True)
class EvaluateTask:
    """What all workers of an evaluation share.

    Attributes:
        root: the run folder.
        data: prepared cases that the run was made from.
        job: settings.
        rivals: by name.
        with_features: whether there are patients enough to speak of a population.
    """

    root: Place
    data: Place
    job: EvaluateJob
    rivals: Mapping[str, LoadRival] = field(default_factory=dict)
    with_features: bool = True


class EvaluateWorker:
    """Measures what a row names; a row that fails is told, and the others go on."""

    def __init__(self, task: EvaluateTask) -> None:
        self._task, job = task, task.job
        self._reader = VolumeReader(task.root, task.data, task.rivals)
        self._features: SliceFeatures | None = None
        if "distribution" in job.metrics and task.with_features:
            self._features = SliceFeatures(
                job.protocol, job.extractor, job.extractor_file, job.extractor_sha256
            )
        self._perceptual: Perceptual | None = None
        if "perceptual" in job.metrics:
            self._perceptual = Perceptual(job.protocol, job.perceptual_file)

    def __call__(self, row: Row) -> Row:
        """Measure one row.

        Args:
            row: `{"kind", "name", "plans" or "source"}`, texts.

        Returns:
            `{"kind", "name", "values", "error", "features"}`: values as JSON; features as an .npz
            in bytes, `row/view` -> `n c`; error is "" where it went well.
        """
        status: Row = {"kind": row["kind"], "name": row["name"], "values": "{}", "error": ""}
        status["features"] = b""
        try:
            plans = [PlanRow.model_validate_json(text) for text in json.loads(row["plans"])]
            values, features = self._measure(row, plans)
            status["values"], status["features"] = json.dumps(values), packed(features)
        except EngineError as error:
            status["error"] = str(error)
        except Exception as error:  # one odd volume must not take the others down
            status["error"] = f"{row['name']}: {type(error).__name__}: {error}"
        return status

    def _measure(
        self, row: Row, plans: list[PlanRow]
    ) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
        if row["kind"] == "volume":
            return self._volume(self._reader.read(plans[0]))
        if row["kind"] == "replicas":
            return self._replicas(plans), {}
        if row["kind"] == "pair":
            return self._pair(plans), {}
        scan = self._reader.real(row["source"])
        if scan is None or self._features is None:
            return {}, {}
        return self._protocols(), {f"{REAL_ROW}/{k}": v for k, v in self._features(scan).items()}

    def _volume(self, beside: Beside) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
        rows: dict[str, Any] = {}
        features: dict[str, NDArray[np.float32]] = {}
        for name, subject in beside.subjects.items():
            values, absent = compare_volume(subject)
            kept = {k: v for k, v in values.items() if _GROUP_OF[k] in self._task.job.metrics}
            self._more(beside, name, subject, kept, absent)
            rows[name] = {"values": kept, "absent": absent}
            if self._features is not None:
                found = self._features(subject.made)
                features.update({f"{name}/{view}": v for view, v in found.items()})
        for name, reason in beside.absent.items():
            rows[name] = {"values": {}, "absent": {"*": reason}}
        return {"rows": rows, **self._protocols()}, features

    def _more(
        self,
        beside: Beside,
        name: str,
        subject: Subject,
        values: dict[str, Any],
        absent: dict[str, str],
    ) -> None:
        """What is no entry of `COMPARISONS`: networks, and what only own slices tell."""
        real = subject.compared
        if self._perceptual is not None:
            found = None if real is None else self._perceptual(subject.made, real)
            if found is None:
                absent["st_lpips"] = self._perceptual.absent or "no real volume to compare with"
            else:
                values["st_lpips"] = round(found, 5)
        if "diversity" in self._task.job.metrics and real is not None:
            if beside.plan.informed != "own":
                absent["own_height"] = "only volumes with their mask's own slice tell"
                return
            ratio = own_height_ratio(
                subject.made.image, real.image, real.body, beside.commit.target_z
            )
            if ratio is not None:
                values["own_height"] = round(ratio, 4)

    def _replicas(self, plans: list[PlanRow]) -> dict[str, Any]:
        read = [self._reader.image(plan) for plan in plans]
        images, body = [image for image, _ in read], read[0][1].mask > 0
        own = plans[0].informed == "own"
        truth = self._reader.truth(plans[0]) if own else None
        between = spread(images, body)
        calibrated = None if truth is None else calibration(images, truth, body)
        return {
            "volumes": len(images),
            "spread_rms": None if between is None else round(between**0.5, 5),
            "calibration": None if calibrated is None else round(calibrated, 4),
            "near_copies": are_near_copies(between, calibrated, _RANGE),
            "by_slice": [None if v is None else round(v, 6) for v in spread_by_slice(images, body)],
        }

    def _pair(self, plans: list[PlanRow]) -> dict[str, Any]:
        (one, case), (other, _) = (self._reader.image(plan) for plan in plans)
        influence = influence_by_slice(one, other, case.mask > 0)
        told = influence[np.isfinite(influence)]
        z = round(plans[0].informed_z / max(1, plans[0].num_slices - 1) * (len(influence) - 1))
        return {
            "influence": round(float(told.mean()), 5) if told.size else None,
            "at_height": round(float(influence[z]), 5) if np.isfinite(influence[z]) else None,
            "by_slice": [round(float(v), 5) if np.isfinite(v) else None for v in influence],
        }

    def _protocols(self) -> dict[str, Any]:
        protocols: dict[str, Any] = {}
        if self._features is not None:
            protocols["extractor"] = {
                "name": self._features.name,
                "sha256": self._features.sha256,
                "absent": self._features.absent,
            }
        if self._perceptual is not None:
            protocols["perceptual"] = {
                "sha256": self._perceptual.sha256,
                "absent": self._perceptual.absent,
            }
        return {"protocols": protocols}


def packed(features: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Arrays as the bytes of an .npz file; empty for none."""
    if not features:
        return b""
    buffer = io.BytesIO()
    np.savez(buffer, **{name.replace("/", "|"): array for name, array in features.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def unpacked(data: bytes) -> dict[str, NDArray[np.float32]]:
    """What `packed` packed."""
    if not data:
        return {}
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name.replace("|", "/"): arrays[name] for name in arrays.files}


assert OWN_ROW != REAL_ROW
