"""Settings of jobs/evaluate_run.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from engine.config import FrozenConfig
from engine.evaluation.distribution.protocol import SliceProtocol
from engine.paths import READ, WRITTEN
from engine.storage.places import PlaceField

Group = Literal["fidelity", "texture", "perceptual", "diversity", "distribution"]
RivalName = Literal["painting", "atlas", "copy", "identity", "quantiles", "redrawn"]


class EvaluateJob(FrozenConfig):
    """Settings of one evaluation.

    Attributes:
        run: the run folder; required.
        against: the prepared cases that the run was made from; required.
        metrics: "fidelity" and "texture": beside the real volume of the mask; "perceptual":
            ST-LPIPS, likewise; "diversity": replicas, and use of the informed slice;
            "distribution": FID, KID and Frechet radiomics distance between populations.
        rivals: rows that need no model, in every table.
        redrawn: for rival "redrawn": prepared cases of another draw (see --method redrawn).
        min_patients: fewer are no population: distances between populations are left out.
        protocol: which slices go into these distances.
        extractor: network of FID and KID.
        extractor_file: its weights; None takes those of its package.
        extractor_sha256: that the file must have.
        perceptual_file: weights of ST-LPIPS; None takes those of its package.
        max_volumes: of the run, evenly spread over the plan; None is all.
        num_workers: processes; None is one a computer.
        seed: of bootstrap and subsets.
    """

    run: Annotated[PlaceField, WRITTEN] | None = None
    against: Annotated[PlaceField, READ] | None = None
    metrics: tuple[Group, ...] = Field(
        ("fidelity", "texture", "perceptual", "diversity", "distribution"), min_length=1
    )
    rivals: tuple[RivalName, ...] = ("painting", "atlas")
    redrawn: Annotated[PlaceField, READ] | None = None
    min_patients: int = Field(10, ge=2)
    protocol: SliceProtocol = SliceProtocol()
    extractor: Literal["efficientnet-lite0", "radimagenet-resnet50"] = "efficientnet-lite0"
    extractor_file: Annotated[Path, READ] | None = None
    extractor_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    perceptual_file: Annotated[Path, READ] | None = None
    max_volumes: int | None = Field(None, ge=1)
    num_workers: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
