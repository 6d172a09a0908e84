"""Public data sets with their own names and numbers: every class arrives where it belongs.

Prepare -> resample -> export of phantoms laid out and numbered as AMOS, BTCV, AbdomenCT-1K, the
Decathlon and BraTS publish theirs, compared voxel by voxel. What each label means is written here
by hand, so that the engine's own tables are not their judge.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine.preparing.dataset as prepare_module
from engine.errors import ConfigError
from engine.parallel.rows.pipeline import Pool, Row
from engine.preparing.dataset import PrepareSummary, prepare_dataset
from engine.runs.export.export import ExportJob, export_run
from engine.runs.jobs.resample import ResampleConfig, resample
from engine.volumes.nifti import read_labels, write_nifti
from engine.volumes.prepare_config import ABDOMEN_CT, BRAIN_FLAIR, PrepareConfig
from engine.volumes.prepared.manifest import read_manifest
from engine.volumes.volume import Volume
from tests.runs.fakes import LoadFake, make_weights

GRID = {"size_yx": (32, 32), "spacing_mm_yx": 3.0, "spacing_mm_z": None}
ABDOMEN = ABDOMEN_CT.model_copy(update=GRID)
BRAIN = BRAIN_FLAIR.model_copy(update=GRID)
# y and x of a box of each structure in the phantom; z is 2 to 9
PLACES = {
    "liver": (slice(8, 14), slice(4, 11)),
    "tumour in liver": (slice(10, 12), slice(6, 8)),
    "right kidney": (slice(16, 20), slice(6, 10)),
    "left kidney": (slice(16, 20), slice(18, 22)),
    "spleen": (slice(9, 13), slice(20, 23)),
    "pancreas": (slice(14, 16), slice(11, 17)),
    "stomach": (slice(8, 12), slice(14, 18)),
    "esophagus": (slice(6, 8), slice(12, 14)),
    "edema": (slice(8, 16), slice(8, 16)),
    "necrosis": (slice(9, 11), slice(9, 12)),
    "rim": (slice(12, 14), slice(9, 15)),
}


@dataclass(frozen=True)
class Foreign:
    """A data set: its labels in its own words, what each draws, and the class that this is."""

    labels: str
    layout: str
    prepare: PrepareConfig
    truth: dict[int, tuple[str, str, str | None]]  # raw: (its own name, place, class)
    region: dict[str, object] | None = None  # `labels` of nnU-Net's region-based training

    def names(self) -> dict[str, object]:
        if self.region is not None:
            return {"background": 0, **self.region}
        own = {name: raw for raw, (name, _, _) in self.truth.items()}
        if self.layout == "msd":
            return {"0": "background", **{str(raw): name for name, raw in own.items()}}
        return {"background": 0, **own}


ORGANS = {
    1: ("spleen", "spleen", "spleen"),
    2: ("right kidney", "right kidney", "kidney"),
    3: ("left kidney", "left kidney", "kidney"),
    5: ("esophagus", "esophagus", None),
    6: ("liver", "liver", "liver"),
    7: ("stomach", "stomach", None),
}
DATA_SETS = {
    "amos": Foreign("amos", "msd", ABDOMEN, {**ORGANS, 10: ("pancreas", "pancreas", "pancreas")}),
    "btcv": Foreign(
        "btcv", "unnamed", ABDOMEN, {**ORGANS, 11: ("pancreas", "pancreas", "pancreas")}
    ),
    "abdomenct1k": Foreign(
        "AbdomenCT-1K",
        "nnunet",
        ABDOMEN,
        {
            1: ("liver", "liver", "liver"),
            2: ("kidney", "right kidney", "kidney"),
            3: ("spleen", "spleen", "spleen"),
            4: ("pancreas", "pancreas", "pancreas"),
        },
    ),
    "msd liver": Foreign(
        "msd_liver",
        "msd",
        ABDOMEN,
        {1: ("liver", "liver", "liver"), 2: ("cancer", "tumour in liver", "liver")},
    ),
    "msd brain": Foreign(
        "Task01_BrainTumour",
        "msd",
        BRAIN,
        {
            1: ("edema", "edema", "edema"),
            2: ("non-enhancing tumor", "necrosis", "non_enhancing_tumor"),
            3: ("enhancing tumour", "rim", "enhancing_tumor"),
        },
    ),
    "brats 2020": Foreign(
        "brats2020",
        "unnamed",
        BRAIN,
        {
            2: ("ED", "edema", "edema"),
            1: ("NCR/NET", "necrosis", "necrosis"),
            4: ("ET", "rim", "enhancing_tumor"),
        },
    ),
    "brats 2023": Foreign(
        "brats2023",
        "nnunet",
        BRAIN,
        {
            2: ("ED", "edema", "edema"),
            1: ("NCR", "necrosis", "necrosis"),
            3: ("ET", "rim", "enhancing_tumor"),
        },
    ),
    "brats regions": Foreign(
        "dataset",
        "nnunet",
        BRAIN,
        {
            1: ("", "edema", "edema"),
            2: ("", "necrosis", "necrosis"),
            3: ("", "rim", "enhancing_tumor"),
        },
        {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
    ),
}


@pytest.fixture(params=DATA_SETS)
def foreign(request: pytest.FixtureRequest) -> Foreign:
    return DATA_SETS[request.param]


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch, no_ray: None) -> None:
    """Preparing in this process, too."""

    def in_turn(
        rows: Sequence[Row], worker: Callable[..., Callable[[Row], Any]], settings: Row, _pool: Pool
    ) -> Iterator[Row]:
        made = worker(**settings)
        yield from (made(dict(row)) for row in rows)

    monkeypatch.setattr(prepare_module, "run_rows", in_turn)
    monkeypatch.setattr(prepare_module, "node_resources", lambda: [{"CPU": 2.0}])


def write(root: Path, foreign: Foreign, name: str = "pat_001") -> np.ndarray:
    """The data set on disk; returns its raw labels, `z y x`."""
    labels = np.zeros((12, 26, 28), np.uint8)
    for raw, (_, place, _) in foreign.truth.items():
        labels[2:10, *PLACES[place]] = raw
    y, x = np.mgrid[:26, :28]
    inside = np.broadcast_to(((y - 12.5) / 11) ** 2 + ((x - 13.5) / 13) ** 2 < 1, labels.shape)
    noise = np.random.default_rng(0).normal(scale=8.0, size=labels.shape)
    if foreign.prepare.modality == "ct":
        image = np.where(inside, 20.0 + 9.0 * labels + noise, -1000.0)
    else:
        image = np.where(inside, 300.0 + 40.0 * labels + noise, 0.0)
    affine = np.diag([-3.0, -3.0, 5.0, 1.0])
    channel = "" if foreign.layout == "msd" else "_0000"
    files = {f"imagesTr/{name}{channel}.nii.gz": image, f"labelsTr/{name}.nii.gz": labels}
    for file, array in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(root / file, Volume(array, affine, name))
    described: dict[str, object] = {"labels": foreign.names(), "numTraining": 1}
    if foreign.layout == "msd":
        pair = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        described |= {"modality": {"0": "CT"}, "training": [pair], "test": []}
    else:
        described |= {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    if foreign.layout != "unnamed":
        (root / "dataset.json").write_text(json.dumps(described))
    return labels


def prepared(tmp_path: Path, foreign: Foreign, labels: str | None) -> PrepareSummary:
    return prepare_dataset(tmp_path / "raw", tmp_path / "prepared", foreign.prepare, labels=labels)


def test_every_class_is_where_it_belongs(tmp_path: Path, foreign: Foreign) -> None:
    raw = write(tmp_path / "raw", foreign)
    summary = prepared(tmp_path, foreign, foreign.labels)
    assert (summary.prepared, summary.failed) == (1, {})
    manifest = read_manifest(tmp_path / "prepared")
    assert manifest.class_names == foreign.prepare.all_class_names, "fits the same weights"
    assert manifest.cases["pat_001"].label_voxels == {
        int(value): int((raw == value).sum()) for value in np.unique(raw)
    }
    weights = make_weights(tmp_path / "weights", foreign.prepare)
    run = ResampleConfig(
        data=tmp_path / "prepared", weights=weights, out=tmp_path / "run", informed=("own",)
    )
    resample(run, LoadFake())
    out = tmp_path / "Dataset900_Made"
    export_run(ExportJob(run=run.out, layout="nnunet", out=out))
    named = json.loads((out / "dataset.json").read_text())["labels"]
    assert list(named) == ["background", *foreign.prepare.class_names]
    (file,) = (out / "labelsTr").glob("*.nii.gz")
    made = read_labels(file).array
    for name, number in named.items():
        wanted = name if number else None
        ours = [value for value, (_, _, what) in foreign.truth.items() if what == wanted]
        expected = np.isin(raw, [*ours, 0] if number == 0 else ours)
        np.testing.assert_array_equal(made == number, expected, err_msg=name)


def test_what_became_what_is_told(tmp_path: Path, foreign: Foreign) -> None:
    raw = write(tmp_path / "raw", foreign)
    lines = "\n".join(prepared(tmp_path, foreign, foreign.labels).labels)
    for value, (_, _, what) in foreign.truth.items():
        number = foreign.prepare.class_names.index(what) + 1 if what else 0
        where = f"class {number} {what}" if what else "no class"
        (line,) = [text for text in lines.splitlines() if text.startswith(f"{where}:")]
        voxels = int((raw == value).sum())
        shown = [part for part in line.split(", ") if f"raw label {value} " in part]
        assert len(shown) == 1, line
        assert f"{voxels} voxels" in shown[0]
    labelled = {what for _, _, what in foreign.truth.values()}
    for number, name in enumerate(foreign.prepare.class_names, start=1):
        unlabelled = f"class {number} {name}: no label in this data set" in lines
        assert unlabelled is (name not in labelled)


@pytest.mark.parametrize("name", [n for n, d in DATA_SETS.items() if d.layout != "unnamed"])
def test_the_presets_own_numbers_are_refused_where_names_say_otherwise(
    tmp_path: Path, name: str
) -> None:
    foreign = DATA_SETS[name]
    write(tmp_path / "raw", foreign)
    with pytest.raises(
        ConfigError, match=r"raw/dataset\.json contradicts.*Right would be --labels"
    ):
        prepared(tmp_path, foreign, None)
    assert not (tmp_path / "prepared").exists()
