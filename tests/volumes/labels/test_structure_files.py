"""A mask in a file for each structure, and data sets that are known by their file names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import ConfigError, VolumeError
from engine.volumes.labels.declared_files import labels_of
from engine.volumes.labels.resolve import resolve_labels
from engine.volumes.layouts import CaseFiles
from engine.volumes.nifti import write_nifti
from engine.volumes.prepare_config import ABDOMEN_CT, BRAIN_FLAIR, PrepareConfig
from engine.volumes.reading import read_labels, source_files
from engine.volumes.volume import Volume

AFFINE = np.diag([-1.5, -1.5, 1.5, 1.0])


def write(folder: Path, **structures: slice) -> Path:
    """Files of a few planes each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, planes in structures.items():
        array = np.zeros((8, 4, 5), np.uint8)
        array[planes] = 1
        write_nifti(folder / f"{name}.nii.gz", Volume(array, AFFINE, name))
    return folder


def test_structures_become_one_label_map(tmp_path: Path) -> None:
    folder = write(tmp_path, spleen=slice(0, 2), liver=slice(2, 5), face=slice(6, 7))
    write(folder, my_own_tumor=slice(5, 6))
    labels = read_labels(folder)
    assert labels.array[:, 0, 0].tolist() == [1, 1, 5, 5, 5, 0, 1093, 0]
    np.testing.assert_array_equal(labels.affine, AFFINE)
    some = read_labels(folder, only={5})
    assert some.array[:, 0, 0].tolist() == [0, 0, 5, 5, 5, 0, 0, 0]
    assert [file.name for file in source_files(folder)] == [
        "face.nii.gz", "liver.nii.gz", "spleen.nii.gz",
    ]  # fmt: skip


def test_structures_that_overlap_or_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"spleen.nii.gz: overlaps liver in 20 voxels; "):
        read_labels(write(tmp_path / "a", liver=slice(0, 3), spleen=slice(2, 4)))
    with pytest.raises(VolumeError, match="no structure that TotalSegmentator names; merge"):
        read_labels(write(tmp_path / "b", other=slice(0, 3)))


def test_structures_say_what_they_are(tmp_path: Path) -> None:
    folder = write(tmp_path / "s0001" / "segmentations", liver=slice(0, 2), pancreas=slice(3, 4))
    declared = labels_of([CaseFiles("s0001", folder.parent / "ct.nii.gz", folder)], tmp_path)
    assert declared.names == {5: "liver", 7: "pancreas"}
    assert resolve_labels(ABDOMEN_CT, None, declared) == ABDOMEN_CT
    with pytest.raises(ConfigError, match=r"TotalSegmentator 2\) contradicts"):
        resolve_labels(ABDOMEN_CT, "totalsegmentator1", declared)


@pytest.mark.parametrize(
    ("case_id", "mask", "config", "right"),
    [
        ("BraTS-GLI-00000-000", "BraTS-GLI-00000-000-seg", BRAIN_FLAIR, "brats2023"),
        ("BraTS-GLI-02062-100", "BraTS-GLI-02062-100-seg", BRAIN_FLAIR, "brats2024"),
        ("FLARE22_Tr_0001", "FLARE22_Tr_0001", ABDOMEN_CT, "flare22"),
        ("word_0002", "word_0002", ABDOMEN_CT, "word"),
        ("amos_0004", "amos_0004", ABDOMEN_CT, "amos"),
        ("case_00000", "segmentation", ABDOMEN_CT, "kits23"),
        ("segmentation-0", "segmentation-0", ABDOMEN_CT, "msd_liver"),
        ("label0001", "label0001", ABDOMEN_CT, "btcv"),
    ],
)
def test_file_names_of_public_data_sets_say_what_their_labels_are(
    case_id: str, mask: str, config: PrepareConfig, right: str, tmp_path: Path
) -> None:
    case = CaseFiles(case_id, None, tmp_path / "masks" / f"{mask}.nii.gz")
    declared = labels_of([case], tmp_path)
    with pytest.raises(ConfigError, match=rf"{case_id}\), contradicts.*--labels {right} "):
        resolve_labels(config, None, declared)
    resolve_labels(config, right, declared)
    assert resolve_labels(config, None, declared, trust=True) == config
    other = CaseFiles("pat1", None, tmp_path / "masks" / "pat1.nii.gz")
    assert labels_of([case, other], tmp_path).names == {}, "not all of them are so named"


def test_tables_added_for_abdomens(tmp_path: Path) -> None:
    expected = {
        "flare22": {1: 1, 2: 2, 3: 3, 4: 4, 13: 2},
        "word": {1: 1, 2: 3, 3: 2, 4: 2, 8: 4},
        "chaos": {63: 1, 126: 2, 189: 2, 252: 3},
        "kits19": {1: 2, 2: 2},
    }
    nothing = labels_of([CaseFiles("pat1", None, tmp_path / "pat1.nii.gz")])
    for name, label_map in expected.items():
        found = resolve_labels(ABDOMEN_CT, name, nothing).label_map
        assert {raw: number for raw, number in found.items() if number} == label_map


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s123--abc.nii.gz\n", "datalad get"),
        (b"<!DOCTYPE html><html><head><title>Sign in</title>", "a web page"),
        (b"PK\x03\x04" + bytes(60), "zip archive"),
    ],
)
def test_what_lies_in_place_of_a_volume_is_told(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=message):
        read_labels(path)


def test_a_4d_mask_is_told_from_a_4d_image(tmp_path: Path) -> None:
    import nibabel as nib

    path = tmp_path / "a.nii.gz"
    nib.Nifti1Image(np.zeros((4, 5, 6, 2), np.uint8), AFFINE).to_filename(path)
    with pytest.raises(VolumeError, match="of a mask, merge its parts into one 3D label map"):
        read_labels(path)
