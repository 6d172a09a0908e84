"""What the preparing job is told: where the raw cases lie, where to, and how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from engine.config import FrozenConfig
from engine.paths import READ, WRITTEN, PathUse
from engine.volumes.layouts import CaseFiles, Layout, Listing, list_data_set
from engine.volumes.prepared.prepare import ABDOMEN_CT, PrepareConfig

_PART = PathUse(writes=False, below="root")


class DataSource(FrozenConfig):
    """Where raw cases lie.

    Attributes:
        root: the data set's folder; may be None where `masks` is given.
        layout: "nnunet", "nnunet_v1", "msd", "folders", "case_folders", "flat", or "auto" to look.
        images: layout "folders": the folder of images, from the current folder or below `root`.
        masks: layout "folders": the folder of masks, likewise.
        channel: which image of a case that has several (`_0000`, `_0001`, or of a 4D file).
    """

    root: Annotated[Path, READ] | None = None
    layout: Layout = "auto"
    images: Annotated[Path, _PART] | None = None
    masks: Annotated[Path, _PART] | None = None
    channel: int | None = Field(None, ge=0)

    def listing(self) -> Listing:
        """The data set's cases, sorted by id, and what is left out (see `list_data_set`)."""
        return list_data_set(self.root, self.layout, self.images, self.masks, self.channel)

    def name(self, cases: Sequence[CaseFiles]) -> str:
        """What the data set is called: its folder, or the one around its masks."""
        folder = self.root if self.root is not None else cases[0].mask.parent.parent
        return folder.resolve().name


class PrepareJob(FrozenConfig):
    """Settings of the job: where from, where to, and how.

    Attributes:
        root: the data set's folder; required, unless `masks` is given.
        out: folder for the prepared cases; required.
        layout: "nnunet", "nnunet_v1", "msd", "folders", "case_folders" (a folder of each
            case: BraTS, KiTS, TotalSegmentator), "flat" (images and masks side by side), or "auto"
            to look.
        images: layout "folders": the folder of images, from the current folder or below `root`.
        masks: layout "folders": the folder of masks, likewise.
        channel: which image of a case that has several: `_0000`, `_0001`, ... or the channel of a
            4D file; None is nnU-Net's 0 in its layouts, and elsewhere the only one.
        labels: which raw label is which class, by name: of a public data set (amos, btcv,
            abdomenct1k, totalsegmentator1, totalsegmentator2, msd_liver, brats2023, ...), or
            "dataset" for the names in the data set's dataset.json; None takes prepare.label_map.
        trust_label_map: take the label map even where dataset.json names its labels otherwise.
        num_workers: processes; None takes all CPUs of the Ray cluster but one.
        stall_timeout: seconds after which a worker that is stuck in a case is ended, and the case
            tried again; None only names it.
        private: whether only you may read what is written (modes 0600 and 0700).
        prepare: how; a preset's settings.
    """

    root: Annotated[Path, READ] | None = None
    out: Annotated[Path, WRITTEN] | None = None
    layout: Layout = "auto"
    images: Annotated[Path, _PART] | None = None
    masks: Annotated[Path, _PART] | None = None
    channel: int | None = Field(None, ge=0)
    labels: str | None = None
    trust_label_map: bool = False
    num_workers: int | None = Field(None, ge=1)
    stall_timeout: float | None = Field(None, ge=10)
    private: bool = False
    prepare: PrepareConfig = ABDOMEN_CT
