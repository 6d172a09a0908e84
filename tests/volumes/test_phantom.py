"""Phantoms: reproducible, anatomical, different between patients and sites."""

from pathlib import Path

import numpy as np
import pytest

from engine.errors import ConfigError
from engine.volumes.nifti import read_image, read_labels
from engine.volumes.phantoms.cohort import write_cohort
from engine.volumes.phantoms.phantom import PhantomConfig, make_phantom
from engine.volumes.prepared.prepare import ABDOMEN_CT, prepare_case

SMALL = PhantomConfig(num_slices=40)
LIVER, SPLEEN, KIDNEY_RIGHT, KIDNEY_LEFT, PANCREAS = 5, 1, 2, 3, 7


def centre(labels: np.ndarray, label: int) -> np.ndarray:
    return np.asarray(np.argwhere(labels == label).mean(axis=0))


def test_the_same_seed_gives_the_same_patient_and_another_index_another() -> None:
    first, again, other = (make_phantom(3, i, SMALL) for i in (1, 1, 2))
    assert np.array_equal(first.image.array, again.image.array)
    assert np.array_equal(first.labels.array, again.labels.array)
    assert (first.labels.array != other.labels.array).mean() > 0.005


def test_organs_lie_where_anatomy_has_them() -> None:
    labels = make_phantom(3, 0).labels.array  # z y x, RAS: larger x is the patient's right
    liver, spleen, pancreas = (centre(labels, i) for i in (LIVER, SPLEEN, PANCREAS))
    right, left = centre(labels, KIDNEY_RIGHT), centre(labels, KIDNEY_LEFT)
    assert liver[2] > pancreas[2] > spleen[2]
    assert right[2] > left[2]
    assert liver[0] > right[0], "the liver lies above the right kidney"
    assert pancreas[1] > right[1], "the pancreas lies in front of the kidneys"
    volume_ml = np.bincount(labels.ravel(), minlength=8) * 0.027
    assert 700 < volume_ml[LIVER] < 2000
    assert all(60 < volume_ml[k] < 260 for k in (KIDNEY_RIGHT, KIDNEY_LEFT, SPLEEN))
    assert 30 < volume_ml[PANCREAS] < 140


def test_tissues_have_their_hounsfield_units() -> None:
    phantom = make_phantom(3, 1, PhantomConfig(site="B"))  # native phase
    image, labels = phantom.image.array, phantom.labels.array
    assert 45 < image[labels == LIVER].mean() < 85
    enhanced = make_phantom(3, 1, PhantomConfig(site="A"))
    kidneys = np.isin(enhanced.labels.array, (KIDNEY_RIGHT, KIDNEY_LEFT))
    assert enhanced.image.array[kidneys].mean() > 110
    assert image.min() < -900
    assert image.max() > 250, "there is bone"
    fat = ((image > -130) & (image < -80)).mean()
    assert fat > 0.05


def test_sites_differ_in_noise() -> None:
    def noise(site: str) -> float:
        image = make_phantom(3, 5, PhantomConfig(site=site, num_slices=12)).image.array
        corner = image[:, :12, :12]  # air beside the patient
        return float(corner.std())

    levels = {site: noise(site) for site in "ABCD"}
    assert len({round(level, 1) for level in levels.values()}) == 4


def test_finer_grids_hold_the_same_patient() -> None:
    config = PhantomConfig(num_slices=40, spacing_mm=2.0)
    fine = make_phantom(3, 1, config)
    assert fine.image.spacing_mm_zyx == (2.0, 2.0, 2.0)
    assert fine.image.size_zyx == (60, 144, 189)
    coarse = make_phantom(3, 1, SMALL)
    ml_fine = (fine.labels.array == LIVER).sum() * 0.008
    ml_coarse = (coarse.labels.array == LIVER).sum() * 0.027
    assert ml_fine == pytest.approx(ml_coarse, rel=0.05)


def test_a_cohort_goes_through_files_into_prepared_cases(tmp_path: Path) -> None:
    (name,) = write_cohort(tmp_path, [2], config=SMALL)
    image = read_image(tmp_path / "imagesTr" / f"{name}_0000.nii.gz")
    labels = read_labels(tmp_path / "labelsTr" / f"{name}.nii.gz")
    case = prepare_case(image, labels, ABDOMEN_CT, name)
    assert case.class_names == ("liver", "kidney", "spleen", "pancreas", "body")
    assert set(np.unique(case.mask)) == set(range(6))
    body = case.mask > 0
    assert case.image is not None
    # the contour is the patient's, without the table
    assert 0.15 < body.mean() < 0.6
    assert not body[:, 0].any()


@pytest.mark.parametrize(
    "bad", [{"spacing_mm": 5.0}, {"spacing_mm": 0.0}, {"num_slices": 3}, {"site": "Z"}]
)
def test_impossible_phantoms_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        make_phantom(0, 0, PhantomConfig.model_validate(bad))
