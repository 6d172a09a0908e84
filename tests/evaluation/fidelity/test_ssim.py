import numpy as np
import pytest
import torch

from engine.errors import VolumeError
from engine.evaluation.fidelity import class_means, mean_errors, ms_ssim


def blobs(seed: int, depth: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:128, :128]
    image = np.full((depth, 128, 128), -1.0)
    for cy, cx, r in rng.uniform((30, 30, 8), (98, 98, 24), size=(6, 3)):
        image += 0.6 * ((y - cy) ** 2 + (x - cx) ** 2 < r**2)
    return np.asarray(np.clip(image, -1, 1))


def test_ms_ssim_is_one_for_equals_and_falls_with_noise() -> None:
    image = blobs(0)
    noise = np.random.default_rng(1).normal(size=image.shape)
    scores = [ms_ssim(image + s * noise, image, 2.0) for s in (0.0, 0.05, 0.2, 0.8)]
    assert scores[0] == pytest.approx(1.0, abs=1e-5)
    assert scores == sorted(scores, reverse=True)
    assert ms_ssim(blobs(2), image, 2.0) < 0.8


@pytest.mark.parametrize("size", [112, 128, 150])
def test_ms_ssim_equals_monais(size: int) -> None:
    regression = pytest.importorskip("monai.metrics.regression")
    rng = np.random.default_rng(size)
    truth = np.pad(blobs(0), ((0, 0), (11, 11), (11, 11)), mode="edge")[:, :size, :size]
    image = np.clip(truth + rng.normal(scale=0.2, size=truth.shape), -1, 1)
    pair = (torch.from_numpy(a).float()[:, None] for a in (image, truth))
    oracle = regression.compute_ms_ssim(*pair, 2, data_range=2.0, kernel_size=7)
    assert ms_ssim(image, truth, 2.0) == pytest.approx(float(oracle.mean()), abs=1e-4)


def test_ms_ssim_is_the_mean_over_slices() -> None:
    image = np.concatenate([blobs(s, 1) for s in range(5)])
    other = image + np.random.default_rng(0).normal(size=image.shape) * 0.1
    each = [ms_ssim(other[z : z + 1], image[z : z + 1], 2.0) for z in range(5)]
    assert ms_ssim(other, image, 2.0) == pytest.approx(np.mean(each), abs=1e-5)


def test_ms_ssim_refuses_other_shapes_and_small_slices() -> None:
    with pytest.raises(VolumeError, match="one grid"):
        ms_ssim(blobs(0), blobs(0, 2), 2.0)
    with pytest.raises(VolumeError, match="at least 112 px"):
        ms_ssim(blobs(0)[:, :64], blobs(0)[:, :64], 2.0)


def test_class_means_and_errors() -> None:
    mask = np.array([[[0, 1, 1], [3, 3, 0]]], dtype=np.uint8)
    image = np.array([[[500.0, 10, 20], [-5, -15, 500]]])
    means = class_means(image, mask, ("liver", "kidney", "body"))
    assert means == {"liver": 15.0, "body": -10.0}
    assert mean_errors(means, {"liver": 12.0, "spleen": 3.0}) == {"liver": 3.0}
    with pytest.raises(VolumeError, match="one grid"):
        class_means(image, mask[:, :1], ("liver",))
