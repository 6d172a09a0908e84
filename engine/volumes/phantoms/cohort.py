"""Phantom cohorts as data sets: the demo's, the tests' and the demo weights' training set.

Phantoms go to disk as NIfTI in nnU-Net raw layout and from there take the same path as any patient.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from engine.errors import LayoutError
from engine.volumes.nifti import write_nifti
from engine.volumes.phantoms.phantom import PhantomConfig, make_phantom
from engine.volumes.prepare_config import ABDOMEN_CT, PrepareConfig
from engine.volumes.prepared.prepare import prepare_case
from engine.volumes.volume import PreparedCase

COHORT_SEED = 2026
_PHANTOM_FILE = re.compile(r"(\..*|phantom\d{4,}\.nii\.gz)")  # or a staged one
NUM_TRAINING = 64
TRAINING_INDICES = tuple(range(NUM_TRAINING))
HELD_OUT_INDICES = (1000, 1001)  # never trained on; sites A and B
DEMO_INDICES = (*range(6), *HELD_OUT_INDICES)


def phantom_id(index: int) -> str:
    """Case id of phantom `index`."""
    return f"phantom{index:04d}"


HELD_OUT_IDS = tuple(phantom_id(index) for index in HELD_OUT_INDICES)


def prepared_phantom(
    index: int, config: PrepareConfig = ABDOMEN_CT, seed: int = COHORT_SEED
) -> PreparedCase:
    """Patient `index` of a cohort on a model's grid, without the way over files."""
    phantom = make_phantom(seed, index)
    return prepare_case(phantom.image, phantom.labels, config, phantom_id(index))


def write_cohort(
    out: Path,
    indices: Iterable[int],
    seed: int = COHORT_SEED,
    config: PhantomConfig | None = None,
    on_case: Callable[[str], None] | None = None,
) -> list[str]:
    """Write phantoms as an nnU-Net raw data set (imagesTr, labelsTr, dataset.json).

    A case whose two files exist is left as it is.

    Args:
        out: data set folder.
        indices: patients of the cohort.
        seed: the cohort.
        config: grid and site.
        on_case: called with each case id when its files are there.

    Returns:
        Case ids, in the order of `indices`.

    Raises:
        LayoutError: the folder holds another data set.
        ConfigError: no such phantoms.
    """
    _refuse_other_data(out)
    names = []
    for index in indices:
        name = phantom_id(index)
        image, labels = (
            out / "imagesTr" / f"{name}_0000.nii.gz",
            out / "labelsTr" / f"{name}.nii.gz",
        )
        if not (image.is_file() and labels.is_file()):
            phantom = make_phantom(seed, index, config)
            image.parent.mkdir(parents=True, exist_ok=True)
            labels.parent.mkdir(parents=True, exist_ok=True)
            write_nifti(image, phantom.image)
            write_nifti(labels, phantom.labels)
        names.append(name)
        if on_case is not None:
            on_case(name)
    _describe(out)
    return names


def _refuse_other_data(out: Path) -> None:
    """Its `dataset.json` would be written over."""
    if out.exists() and not out.is_dir():
        raise LayoutError(f"{out}: a file; choose a folder with --out")
    names = [path.name for path in (out / "labelsTr").glob("*")]
    ours = bool(names) and all(_PHANTOM_FILE.fullmatch(name) for name in names)
    if (out / "dataset.json").exists() and not ours:
        raise LayoutError(f"{out}: holds another data set; choose an empty folder with --out")


def _describe(out: Path) -> None:
    description = {
        "channel_names": {"0": "CT"},
        "labels": {
            "background": 0,
            "spleen": 1,
            "kidney_right": 2,
            "kidney_left": 3,
            "gallbladder": 4,
            "liver": 5,
            "stomach": 6,
            "pancreas": 7,
        },
        "numTraining": len(list((out / "labelsTr").glob("*.nii.gz"))),
        "file_ending": ".nii.gz",
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
