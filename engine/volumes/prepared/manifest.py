"""The list beside prepared cases (`dataset.json`): settings, and what each case came from.

Written once a data set is prepared; read by training and by runs. Knows no Ray and no volume.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Literal

from pydantic import Field

from engine.config import FrozenConfig
from engine.errors import StoreError, StoreUnreachableError, os_refusal
from engine.storage.checked_files import MAX_LIST_BYTES, read_model
from engine.storage.places import Place
from engine.volumes.layouts import Split
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.prepared.class_loss import ClassLoss

MANIFEST_NAME = "dataset.json"
SETTINGS_NAME = "prepare.json"
"""Lies in a folder of prepared cases from the first of them on, the list only at the end."""


class PreparedEntry(FrozenConfig):
    """One prepared case.

    Attributes:
        dataset: folder name of the data set it belongs to.
        split: "train" or "test", as its data set said.
        sha256: of the prepared folder (names and bytes of all its files).
        size_zyx: prepared voxels.
        has_image: False for a mask without an image.
        sources: role and file name -> sha256 of what it was made from.
        notes: what is odd about it and was taken all the same.
        grid_loss: what the prepared grid loses of each class of the mask; empty in early versions.
        label_voxels: raw label -> voxels of the mask as it was read; empty where not known.
    """

    dataset: str
    split: Split
    sha256: str
    size_zyx: tuple[int, int, int]
    has_image: bool
    sources: dict[str, str]
    notes: tuple[str, ...] = ()
    grid_loss: dict[str, ClassLoss] = Field(default_factory=dict)
    label_voxels: dict[int, int] = Field(default_factory=dict)


class PreparedManifest(FrozenConfig):
    """A prepared data set, or several in one folder.

    Attributes:
        format: of this file.
        config: how its cases were prepared.
        class_names: of classes 1..N, the contour's last.
        cases: by case id.
        failed: case id -> why it was refused.
    """

    format: Literal["gem3d-prepared-dataset/1"] = "gem3d-prepared-dataset/1"
    config: PrepareConfig
    class_names: tuple[str, ...]
    cases: dict[str, PreparedEntry]
    failed: dict[str, str] = Field(default_factory=dict)

    def case_ids(self, split: Split | None = None) -> tuple[str, ...]:
        """Sorted ids, of one split or of all."""
        return tuple(sorted(i for i, c in self.cases.items() if split in (None, c.split)))


def write_manifest(folder: Path, manifest: PreparedManifest) -> None:
    """Write `dataset.json`, whole or not at all.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder / MANIFEST_NAME
    staged = folder / f".{MANIFEST_NAME}.{uuid.uuid4().hex[:8]}.part"
    with os_refusal(StoreError, f"{path}: cannot be written", "check free space and permissions"):
        with staged.open("w", encoding="utf-8") as file:
            file.write(manifest.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)


def read_manifest(folder: Place) -> PreparedManifest:
    """Read `dataset.json` of a prepared folder.

    Raises:
        StoreError: missing or damaged.
    """
    path = folder / MANIFEST_NAME
    try:
        return read_model(PreparedManifest, path, MAX_LIST_BYTES)
    except FileNotFoundError:
        raise StoreError(
            f"{path}: missing; prepare the data set (jobs/prepare_dataset.py), or finish that job"
        ) from None
    except StoreUnreachableError:
        raise
    except OSError as error:
        reason = error.strerror or str(error).removeprefix(f"{path}: ")
        raise StoreError(
            f"{path}: damaged or of another version ({reason}); prepare the data set again"
        ) from None
