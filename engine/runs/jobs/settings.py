"""The settings that all generating jobs have, and which of them identify a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from engine.config import FrozenConfig, leave_out_later
from engine.paths import READ, WRITTEN
from engine.runs.making.quality import QualityConfig
from engine.runs.making.voxels.stored import Stored
from engine.runs.planning.gate import GateConfig
from engine.runs.planning.method import redrawn_digest
from engine.runs.record.identity import RunIdentity, code_commit, code_versions, hash_weights
from engine.runs.record.names_only import names_only
from engine.runs.report.summary import MAX_LISTED
from engine.sampling.config import SamplingConfig
from engine.sampling.rivals.methods import MethodName, rival_digest
from engine.storage.places import Place, PlaceField
from engine.volumes.layouts import Split

_PLACES = ("data", "weights", "out", "redrawn")
# absent at their default: older runs have none
_LATER: dict[str, Any] = {
    "splits": ["train"], "informed_splits": ["train"], "method": "model", "redrawn": None,
    "stored": "float32", "sampling.pin_informed": "no", "quality.max_outline_gap": 0.03,
    "quality.min_detail": 0.1, "quality.min_roughness": 0.2,
}  # fmt: skip
_MACHINE = ("num_workers", "rows_at_once", "num_pictured", "stall_timeout", "private")


class GenerationConfig(FrozenConfig):
    """Settings of every generating job.

    Attributes:
        weights: folder of the model.
        out: run folder, or an address such as s3://BUCKET/NAME. Relative places lie below the
            current directory (below GEM3D_RUNS, or `gem3d` in the home folder, when Ray runs the
            job in a temporary copy of the code).
        seed: of all randomness.
        num_workers: processes that hold a model; None is one a GPU, else one a computer.
        rows_at_once: volumes in a worker at once, in any stage; more keep its batch full and cost
            memory. None is 8 on a GPU, else 2.
        num_pictured: volumes drawn in the report; its table holds the first thousand.
        stall_timeout: seconds after which a worker that makes no step (a window, a read, a write)
            is ended, and its volumes move to another; give more than the slowest window takes. None
            only names such a worker.
        private: whether only you may read the run's files (modes 0600 and 0700).
        method: "model", or a rival that needs no weights, to compare with: "painting" (each class
            has its mean in the informed slice), "atlas" (mean of the training cases), "copy" (of
            the slice), "identity", "quantiles" (matched to the slice, by class), "redrawn".
        redrawn: for "redrawn": prepared cases of the same names with another draw of texture and
            noise.
        sampling: how volumes are sampled.
        stored: how intensities are kept. "int16": rounded to whole units, as scanners do, in a
            quarter of the bytes: HU, and other units where the window is at least 1,000 of them
            wide (else float32).
        splits: cases of these are sampled where none are named: "train", "test". Test masks stay
            test masks in an export.
        informed_splits: cases of these lend their appearance, and say what real volumes are like.
        gate: what is done about informed slices that do not fit the mask.
        quality: what a volume must be like.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    weights: Annotated[Path, READ] = Path("weights/demo_abdomen")
    out: Annotated[PlaceField, WRITTEN] = Path("runs/generated")
    seed: int = Field(0, ge=0, lt=2**63)
    num_workers: int | None = Field(None, ge=1)
    rows_at_once: int | None = Field(None, ge=1, le=64)
    num_pictured: int = Field(24, ge=0, le=MAX_LISTED)
    stall_timeout: float | None = Field(None, ge=10)
    private: bool = False
    method: MethodName = "model"
    redrawn: Annotated[PlaceField, READ] | None = None
    stored: Stored = "float32"
    splits: tuple[Split, ...] = Field(("train",), min_length=1)
    informed_splits: tuple[Split, ...] = Field(("train",), min_length=1)
    sampling: SamplingConfig = SamplingConfig()
    gate: GateConfig = GateConfig()
    quality: QualityConfig = QualityConfig()

    @model_validator(mode="after")
    def _redrawn_has_data(self) -> Self:
        if (self.method == "redrawn") != (self.redrawn is not None):
            raise ValueError("method redrawn and redrawn belong together: give both or neither")
        return self


def run_identity(
    config: GenerationConfig,
    job: str,
    data: Place,
    data_sha256: dict[str, str],
    weights: Path,
    sampling: SamplingConfig,
    machine_settings: tuple[str, ...] = (),
) -> RunIdentity:
    """What a run is known by: its settings, without those that only this machine concern.

    Args:
        config: as given.
        job: its name.
        data: where its cases lie.
        data_sha256: of what describes the data.
        weights: folder of the model, or the name of what stands for one.
        sampling: resolved for these weights.
        machine_settings: of this job, beside the usual ones.
    """
    is_model = config.method == "model"
    digest, files = hash_weights(weights) if is_model else (rival_digest(config.method), {})
    settings = config.model_dump(mode="json")
    settings["sampling"] = sampling.model_dump(mode="json")
    leave_out_later(settings, _LATER)
    places = {key: settings.pop(key) for key in (*_PLACES, *machine_settings) if key in settings}
    machine = {**places, **{key: settings.pop(key) for key in _MACHINE}}
    machine["data"], machine["weights"] = str(data), str(weights)
    settings, machine = names_only(settings), names_only(machine)
    return RunIdentity(
        job=job,
        settings=settings,
        weights_sha256=digest,
        weights=files,
        data={**data_sha256, **redrawn_digest(config.redrawn)},
        machine=machine,
        versions=code_versions(),
        code=code_commit(),
    )
